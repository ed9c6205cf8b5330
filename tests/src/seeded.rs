//! Dice that fall the same way for the same seed, so that a failure can be had again.

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// With the seed of the environment (`RINGRIFT_SEED`), or this one.
    ///
    /// # Panics
    /// When the environment's is no number.
    pub fn new(otherwise: u64) -> (Self, u64) {
        let seed = std::env::var("RINGRIFT_SEED")
            .map_or(otherwise, |text| text.parse().expect("RINGRIFT_SEED is a number"));
        (Self(seed), seed)
    }

    /// Dice of their own for one of several threads.
    pub fn fork(&mut self) -> Self {
        Self(self.roll())
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// The whole of a long test is wanted, not only the part that fits into every run.
pub fn is_full() -> bool {
    std::env::var("RINGRIFT_FULL_SWEEP").is_ok_and(|value| value == "1")
}

/// Says a figure that somebody may want to write down, past the test runner.
pub fn tell(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes());
}
