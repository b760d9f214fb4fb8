//! Fuzzes `hearth_fuzz::readers::replies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::readers::replies(input);
});
