//! Signing digests with a session or household key.
//!
//! The signer that the wallet unlocked is used as it is; this file only turns its signature into
//! the one form that the protocol and the chain accept.

use alloy_primitives::B256;
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use hearth_protocol::signature::Signature;

/// Signs a digest.
pub fn sign(key: &PrivateKeySigner, digest: B256) -> Signature {
    let signed = key
        .sign_hash_sync(&digest)
        .expect("a key in memory signs every digest");
    Signature::from_bytes(&signed.normalized_s().as_bytes())
        .expect("a normalised signature has a low s and v of 27 or 28")
}
