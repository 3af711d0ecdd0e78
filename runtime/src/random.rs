//! Small reproducible random numbers.

/// The finaliser of SplitMix64: spreads every bit over all others.
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// What SplitMix64 adds for each number.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The generator SplitMix64.
pub(crate) struct Generator(pub(crate) u64);

impl Generator {
    /// Uniform in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(STEP);
        (mix(self.0) >> 11) as f64 / (1u64 << 53) as f64
    }
}
