//! Every input that a fuzzer kept or that ever failed goes through its target again. One that fails names its file.

use std::path::Path;

use ringrift_fuzz::TARGETS;

#[test]
fn the_corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        let (mut inputs, mut good) = (0, 0);
        let folder = corpus.join(target.name);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path = entry.expect("a folder can be read").path();
            let data = std::fs::read(&path).expect("a file can be read");
            let outcome = std::panic::catch_unwind(|| (target.body)(&data));
            let is_good = outcome.unwrap_or_else(|_| panic!("{} fails on {}", target.name, path.display()));
            inputs += 1;
            good += u32::from(is_good);
        }
        // A body that refuses all would pass everything.
        assert!(
            inputs >= 3 && good >= 1,
            "{}: {good} of {inputs} inputs are good for something",
            target.name
        );
        (target.body)(&[]);
        for byte in [0, b'\n', b'{', 0xff] {
            (target.body)(&[byte; 300]);
        }
    }
}
