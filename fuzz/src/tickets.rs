//! Tickets: the one line that a person copies from anywhere (spec: household, section 3).

use hearth_net::Ticket;
use hearth_net::limits::{PEER_ADDRESSES_MAX, TICKET_CHARS_MAX, TICKET_PAYLOAD_BYTES_MAX};

/// A ticket as it was typed, read and written and read again. What is taken keeps its bounds, and names
/// only what can be dialed.
pub fn tickets(input: &[u8]) -> bool {
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
