//! Fuzzes `hearth_fuzz::embeddings`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::embeddings(input);
});
