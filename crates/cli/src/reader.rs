//! `hearth reader`: the process that reads what strangers wrote, which a node starts for itself.

use hearth_node::reader::Launcher;
pub(crate) use hearth_node::reader::serve;

use crate::failure::Failure;

/// How this program starts itself as a reader.
pub(crate) fn launcher() -> Result<Launcher, Failure> {
    Launcher::this_program(["reader"]).map_err(|error| {
        Failure::new(
            "no_reader",
            format!("the system does not say where this program is: {error}"),
            "Start it by its whole path",
        )
    })
}
