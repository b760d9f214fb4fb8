//! Fuzzes `hearth_fuzz::offers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::offers(input);
});
