//! The two signatures of an announcement: over the offer, and over where its device is.

use hearth_protocol::offer::{DeviceId, Offer, SignedOffer};
use iroh::{PublicKey, SecretKey, Signature};

use crate::codec::Announcement;
use crate::peers::PeerAddress;

/// Signs what a device offers, and where it is.
pub(crate) fn announce(key: &SecretKey, offer: Offer, address: PeerAddress) -> Announcement {
    let offer = Offer {
        device: DeviceId(*key.public().as_bytes()),
        ..offer
    };
    let location = Announcement::address_bytes(offer.issued_at, &address);
    Announcement {
        address_signature: halves(&key.sign(&location)),
        address,
        offer: SignedOffer {
            signature: halves(&key.sign(&offer.signing_bytes())),
            offer,
        },
    }
}

/// Whether both the offer and the address are signed by the device.
pub(crate) fn is_signed(announcement: &Announcement) -> bool {
    let offer = &announcement.offer.offer;
    let Ok(key) = PublicKey::from_bytes(&offer.device.0) else {
        return false;
    };
    let location = Announcement::address_bytes(offer.issued_at, &announcement.address);
    let signed = |bytes: &[u8], halves: &([u8; 32], [u8; 32])| {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&halves.0);
        signature[32..].copy_from_slice(&halves.1);
        key.verify(bytes, &Signature::from_bytes(&signature))
            .is_ok()
    };
    signed(&offer.signing_bytes(), &announcement.offer.signature)
        && signed(&location, &announcement.address_signature)
}

fn halves(signature: &Signature) -> ([u8; 32], [u8; 32]) {
    let bytes = signature.to_bytes();
    let mut halves = ([0; 32], [0; 32]);
    halves.0.copy_from_slice(&bytes[..32]);
    halves.1.copy_from_slice(&bytes[32..]);
    halves
}
