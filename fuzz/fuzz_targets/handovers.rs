//! Fuzzes `hearth_fuzz::handovers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hearth_fuzz::handovers(input);
});
