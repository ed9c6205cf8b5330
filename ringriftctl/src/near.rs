//! The nearest words to one that was mistyped.

/// How many are named.
const NEAREST: usize = 3;
/// Below this likeness (0 to 1) a word is no suggestion but noise.
const LIKENESS_MIN: f64 = 0.6;

/// The three words most like `word`, the likest first; none when nothing is like it.
pub fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut rated: Vec<_> = words.map(|w| (strsim::jaro_winkler(word, w), w)).collect();
    rated.retain(|(likeness, _)| *likeness >= LIKENESS_MIN);
    rated.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    rated.dedup_by_key(|(_, w)| *w);
    rated.into_iter().take(NEAREST).map(|(_, w)| w).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likest_come_first_and_noise_never() {
        let words = ["start", "status", "stop", "restart", "logs", "wait"];
        assert_eq!(nearest("statr", words.into_iter())[0], "start");
        assert_eq!(nearest("stauts", words.into_iter())[0], "status");
        assert!(nearest("statr", words.into_iter()).len() <= 3);
        assert!(nearest("zzzz", words.into_iter()).is_empty());
    }
}
