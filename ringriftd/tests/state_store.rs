//! A state in two files, in memory and on disk: what is found after each kind of death and damage.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use nix::sys::memfd::{MFdFlags, memfd_create};
use ringriftd::limits::STATE_DELTAS_MIN;
use ringriftd::state::record::{HEADER, Kind, encode};
use ringriftd::state::store::{Halves, Pick, Recovered, Unreadable};

/// Two files of one kind, which outlive those who open them.
struct Pair([File; 2]);

impl Pair {
    fn memory() -> Self {
        Self(["a", "b"].map(|name| File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC).unwrap())))
    }

    fn disk() -> Self {
        Self([(); 2].map(|()| tempfile::tempfile().unwrap()))
    }

    fn open(&self, pick: Pick) -> (Halves, Option<Recovered>) {
        self.try_open(pick).unwrap_or_else(|e| panic!("{e}"))
    }

    fn try_open(&self, pick: Pick) -> Result<(Halves, Option<Recovered>), Unreadable> {
        let [a, b] = &self.0;
        Halves::open([a.try_clone().unwrap(), b.try_clone().unwrap()], pick)
    }

    #[track_caller]
    fn finds(&self, generation: u64, base: &str, deltas: &[&str]) -> Recovered {
        let found = self.open(Pick::Newest).1.expect("a state");
        assert_eq!(found.generation, generation, "{:?}", found.left_out);
        assert_eq!(found.base, base.as_bytes());
        let texts: Vec<&str> = found
            .deltas
            .iter()
            .map(|d| std::str::from_utf8(d).unwrap())
            .collect();
        assert_eq!(texts, deltas);
        found
    }

    fn bytes(&self, index: usize) -> Vec<u8> {
        let size = self.0[index].metadata().unwrap().len();
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        self.0[index].read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn set(&self, index: usize, bytes: &[u8]) {
        self.0[index].set_len(0).unwrap();
        self.0[index].write_all_at(bytes, 0).unwrap();
    }
}

/// Two generations: "one" with a delta, then "two" with two.
fn two_generations(pair: &Pair) -> Halves {
    let (mut halves, found) = pair.open(Pick::Newest);
    assert_eq!(found, None);
    assert!(halves.needs_rebase() && halves.append(b"too early").is_err());
    halves.rebase(b"one").unwrap();
    assert!(!halves.needs_rebase());
    halves.append(b"1a").unwrap();
    halves.rebase(b"two").unwrap();
    halves.append(b"2a").unwrap();
    halves.append(b"2b").unwrap();
    assert_eq!(halves.generation(), 2);
    halves
}

#[test]
fn what_was_appended_is_found_and_appending_goes_on() {
    for pair in [Pair::memory(), Pair::disk()] {
        drop(two_generations(&pair));
        let found = pair.finds(2, "two", &["2a", "2b"]);
        assert_eq!((found.left_out, found.is_previous), (None, false));
        let (mut halves, _) = pair.open(Pick::Newest);
        halves.append(b"2c").unwrap();
        pair.finds(2, "two", &["2a", "2b", "2c"]);
        halves.rebase(b"three").unwrap();
        pair.finds(3, "three", &[]);
    }
}

#[test]
fn the_previous_generation_is_kept_and_chosen_on_request() {
    let pair = Pair::memory();
    drop(two_generations(&pair));
    let (mut halves, found) = pair.open(Pick::Previous);
    let found = found.expect("the previous one");
    assert_eq!((found.generation, found.is_previous), (1, true));
    assert_eq!((found.base.as_slice(), found.deltas.len()), (&b"one"[..], 1));
    assert!(
        found
            .left_out
            .expect("told")
            .contains("generation 2 is passed over")
    );
    // Nothing is appended to what would not be found again.
    assert!(halves.needs_rebase() && halves.append(b"lost").is_err());
    halves.rebase(b"safe").unwrap();
    pair.finds(3, "safe", &[]);
    // The one that was passed over made room, the known good one did not.
    let (_, found) = pair.open(Pick::Previous);
    assert_eq!(found.expect("still there").base, b"one");
    let fresh = Pair::memory();
    fresh.open(Pick::Newest).0.rebase(b"only").unwrap();
    assert_eq!(fresh.open(Pick::Previous).1, None);
}

/// B13
#[test]
fn cut_at_any_byte_the_newest_half_gives_what_was_whole_or_the_previous_one() {
    let pair = Pair::memory();
    drop(two_generations(&pair));
    let (newest, old) = (pair.bytes(1), pair.bytes(0));
    let base = HEADER + 3;
    let delta = HEADER + 2;
    for cut in 0..newest.len() {
        pair.set(1, &newest[..cut]);
        pair.set(0, &old);
        let found = match cut {
            0 => pair.finds(1, "one", &["1a"]),
            _ if cut < base => {
                let found = pair.finds(1, "one", &["1a"]);
                let told = found.left_out.as_ref().expect("told");
                assert!(
                    told.contains("second half") && told.contains("cut short"),
                    "{told}"
                );
                found
            }
            _ => pair.finds(2, "two", &["2a", "2b"][..(cut - base) / delta]),
        };
        assert!(!found.is_previous);
        // What follows is found, whatever was behind it.
        let (mut halves, _) = pair.open(Pick::Newest);
        halves.append(b"next").unwrap();
        let found = pair.open(Pick::Newest).1.expect("a state");
        assert_eq!(found.deltas.last().expect("one"), b"next", "cut at {cut}");
    }
}

/// B13
#[test]
fn no_flipped_bit_makes_a_wrong_state() {
    let pair = Pair::memory();
    drop(two_generations(&pair));
    let newest = pair.bytes(1);
    let base = HEADER + 3;
    for at in 0..newest.len() {
        let mut bytes = newest.clone();
        bytes[at] ^= 1 << (at % 8);
        pair.set(1, &bytes);
        let found = if at < base {
            pair.finds(1, "one", &["1a"])
        } else {
            pair.finds(2, "two", &["2a", "2b"][..(at - base) / (HEADER + 2)])
        };
        assert!(found.left_out.is_some(), "byte {at}");
        if at < base && !found.left_out.as_ref().expect("told").contains("cut short") {
            assert!(found.is_previous, "byte {at}");
        }
    }
    // Both broken: there is no state, and nothing is invented.
    pair.set(0, b"garbage");
    pair.set(1, &[0; 100]);
    let (mut halves, found) = pair.open(Pick::Newest);
    assert_eq!(found, None);
    halves.rebase(b"new").unwrap();
    pair.finds(1, "new", &[]);
}

/// B13
#[test]
fn odd_files_are_read_without_harm() {
    let pair = Pair::disk();
    drop(two_generations(&pair));
    let newest = pair.bytes(1);
    let rows: [(&str, Vec<u8>); 4] = [
        ("a delta first", encode(Kind::Delta, 3, 1, b"x").unwrap()),
        ("an event first", encode(Kind::Event, 3, 0, b"x").unwrap()),
        ("a base with a number", encode(Kind::Base, 3, 7, b"x").unwrap()),
        ("empty", Vec::new()),
    ];
    for (what, bytes) in rows {
        pair.set(1, &bytes);
        assert_eq!(
            pair.finds(1, "one", &["1a"]).is_previous,
            !bytes.is_empty(),
            "{what}"
        );
    }
    let tails: [(&str, Vec<u8>); 4] = [
        ("of another generation", encode(Kind::Delta, 1, 3, b"x").unwrap()),
        ("one is missing", encode(Kind::Delta, 2, 4, b"x").unwrap()),
        ("one is repeated", encode(Kind::Delta, 2, 2, b"2b").unwrap()),
        ("a second base", encode(Kind::Base, 2, 0, b"x").unwrap()),
    ];
    for (what, tail) in tails {
        pair.set(1, &[newest.clone(), tail].concat());
        let told = pair.finds(2, "two", &["2a", "2b"]).left_out.expect("told");
        assert!(told.contains("does not follow"), "{what}: {told}");
    }
    // Terabytes of nothing behind it.
    pair.set(1, &newest);
    pair.0[1].set_len(1 << 40).unwrap();
    assert!(pair.finds(2, "two", &["2a", "2b"]).left_out.is_some());
    let (mut halves, _) = pair.open(Pick::Newest);
    halves.append(b"2c").unwrap();
    assert_eq!(pair.finds(2, "two", &["2a", "2b", "2c"]).left_out, None);
    assert!(pair.0[1].metadata().unwrap().len() < 1000);
}

/// B13
#[test]
fn what_a_newer_program_wrote_is_named_and_left_alone() {
    let pair = Pair::disk();
    drop(two_generations(&pair));
    let mut newer = encode(Kind::Base, 3, 0, b"unheard of").unwrap();
    newer[8] = 7;
    let checksum = crc32fast::hash(&newer[..HEADER - 4]).to_le_bytes();
    newer[HEADER - 4..HEADER].copy_from_slice(&checksum);
    pair.set(0, &newer);
    let error = pair.try_open(Pick::Newest).expect_err("refused");
    let text = error.to_string();
    for part in ["first half", "version 7", "reads 1 to 1", "move the file away"] {
        assert!(text.contains(part), "lacks {part:?}: {text}");
    }
    assert_eq!(pair.bytes(0), newer);
}

#[test]
fn a_new_base_is_due_when_the_deltas_outweigh_it() {
    let pair = Pair::memory();
    let (mut halves, _) = pair.open(Pick::Newest);
    halves.rebase(b"small").unwrap();
    let delta = vec![b'x'; 64 * 1024];
    let mut count = 0;
    while !halves.needs_rebase() {
        halves.append(&delta).unwrap();
        count += 1;
    }
    assert_eq!(count, STATE_DELTAS_MIN / (64 * 1024));
    let large = vec![b'y'; 2 * usize::try_from(STATE_DELTAS_MIN).unwrap()];
    halves.rebase(&large).unwrap();
    count = 0;
    while !halves.needs_rebase() {
        halves.append(&delta).unwrap();
        count += 1;
    }
    assert_eq!(count, 2 * STATE_DELTAS_MIN / (64 * 1024));
}

#[test]
fn a_new_base_that_fails_leaves_the_current_one_and_is_tried_again_later() {
    let [a, b] = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
    // The second half can only be read, so that every new base fails there.
    let open = || {
        let readonly = File::open(b.path()).unwrap();
        Halves::open([a.reopen().unwrap(), readonly], Pick::Newest).unwrap()
    };
    let mut halves = open().0;
    halves.rebase(b"good").unwrap();
    let delta = vec![b'x'; usize::try_from(STATE_DELTAS_MIN / 4).unwrap()];
    while !halves.needs_rebase() {
        halves.append(&delta).unwrap();
    }
    halves
        .rebase(b"never")
        .expect_err("a file that cannot be written");
    assert!(!halves.needs_rebase());
    let mut more = 0;
    while !halves.needs_rebase() {
        halves.append(&delta).unwrap();
        more += 1;
    }
    assert_eq!(more, 4);
    let found = open().1.expect("a state");
    assert_eq!((found.base.as_slice(), found.deltas.len()), (&b"good"[..], 8));
}

#[test]
fn a_delta_that_fails_never_happened() {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    // Memory that is full: it may not grow.
    let files = ["a", "b"].map(|name| {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        File::from(memfd_create(name, flags).unwrap())
    });
    let pair = Pair(files);
    let mut halves = two_generations(&pair);
    fcntl(&pair.0[1], FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
    halves.append(b"2c").expect_err("it may not grow");
    pair.finds(2, "two", &["2a", "2b"]);
    halves.rebase(b"three").unwrap();
    halves.append(b"3a").unwrap();
    pair.finds(3, "three", &["3a"]);
}
