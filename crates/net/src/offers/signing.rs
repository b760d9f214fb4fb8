//! The two signatures of an announcement: over the offer, and over where its device is.

use hearth_protocol::offer::{DeviceId, Offer, SignedOffer};
use iroh::{PublicKey, SecretKey, Signature};

use crate::codec::Announcement;
use crate::peers::PeerAddress;

/// An Ed25519 signature as it travels: its two halves.
pub(crate) type Halves = ([u8; 32], [u8; 32]);

/// Signs what a device offers, and where it is.
pub(crate) fn announce(key: &SecretKey, offer: Offer, address: PeerAddress) -> Announcement {
    let offer = Offer {
        device: DeviceId(*key.public().as_bytes()),
        ..offer
    };
    let location = Announcement::address_bytes(offer.issued_at, &address);
    Announcement {
        address_signature: sign(key, &location),
        address,
        offer: SignedOffer {
            signature: sign(key, &offer.signing_bytes()),
            offer,
        },
    }
}

/// Whether both the offer and the address are signed by the device.
pub(crate) fn is_signed(announcement: &Announcement) -> bool {
    let offer = &announcement.offer.offer;
    let location = Announcement::address_bytes(offer.issued_at, &announcement.address);
    is_signed_by(
        offer.device,
        &offer.signing_bytes(),
        &announcement.offer.signature,
    ) && is_signed_by(offer.device, &location, &announcement.address_signature)
}

/// Signs bytes, which begin with a domain of their own.
pub(crate) fn sign(key: &SecretKey, bytes: &[u8]) -> Halves {
    let bytes = key.sign(bytes).to_bytes();
    let mut halves = ([0; 32], [0; 32]);
    halves.0.copy_from_slice(&bytes[..32]);
    halves.1.copy_from_slice(&bytes[32..]);
    halves
}

/// Whether a device signed these bytes.
pub(crate) fn is_signed_by(device: DeviceId, bytes: &[u8], halves: &Halves) -> bool {
    let Ok(key) = PublicKey::from_bytes(&device.0) else {
        return false;
    };
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&halves.0);
    signature[32..].copy_from_slice(&halves.1);
    key.verify(bytes, &Signature::from_bytes(&signature))
        .is_ok()
}
