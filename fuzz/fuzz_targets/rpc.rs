//! Fuzzes `hearth_fuzz::rpc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::rpc(input);
});
