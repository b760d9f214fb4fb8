//! Fuzzes `hearth_fuzz::readers::template`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::readers::template(input);
});
