//! Tickets: the one line that a person copies from anywhere, and what it carries (spec: household, section 3).

use hearth_chain::embedded::is_embedded_id;
use hearth_net::limits::{PEER_ADDRESSES_MAX, TICKET_CHARS_MAX, TICKET_PAYLOAD_BYTES_MAX};
use hearth_net::{PeerAddress, Ticket, device_of_key};
use hearth_node::shared_chain::ticket::TicketPayload;

/// What a ticket carries, whatever its bytes: a chain in it is none that others run, and names who can be dialed.
fn payload(bytes: &[u8]) {
    let ticket = Ticket {
        peer: PeerAddress::of(device_of_key(&[7; 32])),
        network_secret: None,
        payload: bytes.to_vec(),
    };
    let Ok(read) = TicketPayload::of(&ticket) else {
        return;
    };
    if let Some(joined) = read.joined_chain(&ticket) {
        assert!(is_embedded_id(joined.chain_id) && joined.host.is_sound());
    }
    let Ok(written) = read.to_bytes() else {
        panic!("what was read can be written");
    };
    let again = Ticket {
        payload: written,
        ..ticket
    };
    assert_eq!(TicketPayload::of(&again), Ok(read));
}

/// A ticket as it was typed, read and written and read again. What is taken keeps its bounds, and names
/// only what can be dialed.
pub fn tickets(input: &[u8]) -> bool {
    payload(input);
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let Ok(ticket) = text.parse::<Ticket>() else {
        return false;
    };
    assert!(text.trim().len() <= TICKET_CHARS_MAX);
    assert!(ticket.payload.len() <= TICKET_PAYLOAD_BYTES_MAX);
    let peer = &ticket.peer;
    assert!(peer.is_sound() && peer.direct.len() + peer.relays.len() <= PEER_ADDRESSES_MAX);
    let written = ticket.to_string();
    assert_eq!(written.parse(), Ok(ticket));
    // A slip of the hand is noticed wherever it is.
    if let Some((at, letter)) = written.char_indices().last() {
        let other = if letter == 'a' { 'b' } else { 'a' };
        let slip = format!("{}{other}", &written[..at]);
        assert!(slip.parse::<Ticket>().is_err(), "{slip}");
    }
    true
}
