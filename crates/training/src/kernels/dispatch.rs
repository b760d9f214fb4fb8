//! Compiles one body for every set of instructions, and calls the one that a path names.

/// Defines a kernel: `kernel! { name<F>(argument: Type, ..) -> Type { body } }` becomes a function whose first
/// parameter is the [`Path`](crate::path::Path); in the body `F` is the way to compute a fused multiply-add.
macro_rules! kernel {
    ($(#[$meta:meta])* $name:ident<$fma:ident>($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        pub(crate) fn $name(path: $crate::path::Path, $($argument: $type),*) $(-> $result)? {
            use $crate::kernels::fma::{Fma, FromDoubles, Fused};
            use $crate::path::Kind;
            #[inline(always)]
            fn body<$fma: Fma>($($argument: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                body::<Fused>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
            fn avx512($($argument: $type),*) $(-> $result)? {
                body::<Fused>($($argument),*)
            }
            match path.kind() {
                Kind::Scalar => body::<FromDoubles>($($argument),*),
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => {
                    #[allow(unsafe_code, reason = "a path exists only where the processor has its instructions")]
                    // SAFETY: `Path` is made of `Avx2` only after AVX2 and FMA were detected.
                    unsafe { avx2($($argument),*) }
                }
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 => {
                    #[allow(unsafe_code, reason = "a path exists only where the processor has its instructions")]
                    // SAFETY: `Path` is made of `Avx512` only after each of these features was detected.
                    unsafe { avx512($($argument),*) }
                }
                // The baseline of this architecture has the instruction and the vectors.
                #[cfg(target_arch = "aarch64")]
                Kind::Neon => body::<Fused>($($argument),*),
            }
        }
    };
}
pub(crate) use kernel;
