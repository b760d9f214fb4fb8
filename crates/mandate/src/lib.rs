//! What an agent may do: labels on all that a model was given, rules for tools, and what only its owner approves.
//!
//! An agent reads what strangers wrote, and a model that reads an order may follow it. So whatever the model wants is judged
//! by where that could have come from, by a program that the model cannot talk to. The rules are those of information flow
//! control as FIDES (arXiv 2505.23643) and CaMeL (arXiv 2503.18813) have them for agents:
//!
//! * Everything has a [`label::Label`]: how far it may travel, and whether the household stands behind it. What is made of two
//!   things has the stricter of both. A conversation ([`context::Context`]) has the label of all that its model has seen.
//! * What would change that label is kept in a variable, which the model hands on without seeing it.
//! * A deed of consequence happens without a question where only trusted text led to it. Otherwise the owner sees the exact
//!   call, and where its arguments came from ([`approval`]).
//! * Another model, which has no tools, answers about a variable in a form that leaves a stranger no words ([`inspection`]).
//!
//! * What a deed may cost is set aside in each budget that it counts in, before anything is signed ([`budget`]).
//!
//! It is pure: no I/O, no clock, no randomness. What is not here: tools, payments, and the conversation itself.

pub mod approval;
pub mod arguments;
pub mod budget;
pub mod context;
pub mod hints;
pub mod inspection;
pub mod label;
pub mod tool;
pub mod variable;
pub mod verdict;
