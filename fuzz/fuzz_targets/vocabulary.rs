//! Fuzzes `hearth_fuzz::readers::vocabulary`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::readers::vocabulary(input);
});
