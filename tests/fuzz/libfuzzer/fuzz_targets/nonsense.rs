//! See `ringrift_fuzz::TARGETS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ringrift_fuzz::run("nonsense", data);
});
