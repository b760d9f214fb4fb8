//! Fuzzes `hearth_fuzz::chat`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::chat(input);
});
