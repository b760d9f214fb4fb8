//! The list of commands: how each is written, and which module does it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{
    chain, channels, chat, data, devices, doctor, keys, models, network, pay, relay, rewards, run,
    serve, service, up, wallet, watch,
};
use crate::failure::Failure;
use crate::global::Global;
use crate::reader;

/// A user-owned AI network: your devices, your models, your coins.
#[derive(Debug, Parser)]
#[command(
    name = "hearth",
    version,
    propagate_version = true,
    max_term_width = 110
)]
#[command(after_help = "\
First steps:
  hearth up                         make a wallet, fetch a model, and answer programs and people
  hearth chat                       talk to it
  hearth invite --network           let another household buy from it; `hearth join` there
  hearth doctor                     see what is missing, and how to get it

Every command takes --json and then prints one JSON document. `hearth COMMAND --help` has examples.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Does what was asked.
    ///
    /// # Errors
    /// Whatever the command says went wrong.
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let Arguments { global, command } = self;
        match command {
            Command::Chain(command) => chain::run(&global, command).await,
            Command::Wallet(command) => wallet::run(&global, command).await,
            Command::ServePaid(arguments) => serve::run(&global, arguments).await,
            Command::Watch(arguments) => watch::run(&global, arguments).await,
            Command::Pay(arguments) => pay::run(&global, arguments).await,
            Command::Channels(arguments) => channels::run(&global, arguments).await,
            Command::Up(arguments) => up::run(&global, arguments).await,
            Command::Chat(arguments) => chat::run(&global, arguments).await,
            Command::Models { command } => models::run(&global, command).await,
            Command::Data { command } => data::run(&global, command),
            Command::Run { command } => run::run(&global, command).await,
            Command::Rewards { command } => rewards::run(&global, command).await,
            Command::Keys { command } => keys::run(&global, command).await,
            Command::Offers(arguments) => network::offers(&global, arguments).await,
            Command::Earnings => network::earnings(&global).await,
            Command::Invite(arguments) => devices::invite(&global, arguments).await,
            Command::Join(arguments) => devices::join(&global, arguments).await,
            Command::Devices { command } => devices::devices(&global, command).await,
            Command::Service(command) => service::run(&global, command),
            Command::Relay(arguments) => relay::run(&global, arguments).await,
            Command::Doctor => doctor::run(&global).await,
            Command::Reader => Ok(reader::serve()),
        }
    }
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring this device up: run its models, find others, and answer programs and people
    #[command(after_help = "\
Programs ask it in the form of OpenAI's or Anthropic's API, at the address that it prints. What others may ask, and
for how much, is said in config.toml.

Examples:
  hearth up
  hearth up --model smollm2-135m-instruct
  hearth up --sell-at 127.0.0.1:4042              sell answers over HTTP too, to whoever pays with x402
  hearth up --join hearth1… --listen 127.0.0.1:0 --json")]
    Up(up::UpArguments),

    /// Talk to a model through the node that runs
    #[command(after_help = "\
Examples:
  hearth chat
  hearth chat --model smollm2-135m-instruct 'What is a hearth?'")]
    Chat(chat::ChatArguments),

    /// List, get, import, remove and serve models
    #[command(after_help = "\
Examples:
  hearth models
  hearth models get
  hearth models import ~/Downloads/model.gguf --name my-model
  hearth models serve my-model --asset TESTUSD --prompt 0.02 --output 0.06")]
    Models {
        /// What to do; without it, list
        #[command(subcommand)]
        command: Option<models::ModelCommand>,
    },

    /// Make, show and verify datasets to train on
    #[command(after_help = "\
Examples:
  hearth data import plays/ --name plays --license CC0-1.0 --out plays-data
  hearth data show plays-data
  hearth data verify plays-data")]
    Data {
        /// What to do
        #[command(subcommand)]
        command: data::DataCommand,
    },

    /// Train a model together with others: make, join, watch and leave runs
    #[command(after_help = "\
Examples:
  hearth run create plays.toml --data plays-data --validate
  hearth run join hearthrun1…
  hearth run watch 3f2a")]
    Run {
        /// What to do
        #[command(subcommand)]
        command: run::RunCommand,
    },

    /// Show and claim what this household earned by training and validating
    #[command(after_help = "\
Examples:
  hearth rewards
  hearth rewards claim")]
    Rewards {
        /// What to do; without it, show
        #[command(subcommand)]
        command: Option<rewards::RewardsCommand>,
    },

    /// Make, list and remove API keys for programs
    #[command(after_help = "\
Examples:
  hearth keys new phone
  hearth keys new editor --asset TESTUSD --per-request 0.01 --per-day 0.50
  hearth keys remove phone")]
    Keys {
        /// What to do; without it, list
        #[command(subcommand)]
        command: Option<keys::KeyCommand>,
    },

    /// Show what others offer, and who would be asked first
    Offers(network::OfferArguments),

    /// Show what this device earned and spent on answers
    Earnings,

    /// Print a ticket by which another device joins this household
    #[command(after_help = "\
Devices of a household answer each other without pay, and prompts that must not leave the household go to them.

Examples:
  hearth invite
  hearth invite --hours 1
  hearth invite --network")]
    Invite(devices::InviteArguments),

    /// Join another device's household, or network, by its ticket
    #[command(after_help = "\
A device that is not up keeps the ticket and joins when it comes up. Where config.toml names no chain, it uses the chain
of that network from its next start on; `hearth chain leave` goes back.

Example:
  hearth join hearth1…")]
    Join(devices::JoinArguments),

    /// Show the devices of the household, remove one, or leave
    #[command(after_help = "\
Examples:
  hearth devices
  hearth devices remove phone
  hearth devices leave")]
    Devices {
        /// What to do; without it, list
        #[command(subcommand)]
        command: Option<devices::DeviceCommand>,
    },

    /// Run a relay: a way between devices that cannot reach each other directly
    #[command(after_help = "\
It forwards packets that only their receivers can read. Devices use it when its URL is in `relays` of [network] in
their config.toml; tickets and offers then say so to others. Without a certificate it speaks plain HTTP.

Examples:
  hearth relay
  hearth relay --listen 0.0.0.0:443 --certificate fullchain.pem --key privkey.pem
  hearth relay --listen 127.0.0.1:0 --json")]
    Relay(relay::RelayArguments),

    /// Run a chain of your own, or look at any chain
    #[command(subcommand)]
    Chain(chain::ChainCommand),

    /// Make, recover, look at and use the household's wallet
    #[command(subcommand)]
    Wallet(wallet::WalletCommand),

    /// Sell any HTTP service: a reverse proxy that asks every request to pay (x402)
    #[command(after_help = "\
The service behind it never sees the payment. It may say what a request really cost in the header `hearth-charge` of
its answer (whole tokens, such as 0.0004, the price at most), which the payer never sees; without it the price is
charged. Any x402 client can pay, by channel (batch-settlement) or one-off (exact, always the price).

Examples:
  hearth serve-paid --price 0.001 --to http://127.0.0.1:3000
  hearth serve-paid --price 0.001 --to http://127.0.0.1:3000 --at-once 8
  hearth serve-paid --price 0.001 --to http://127.0.0.1:3000 --listen 127.0.0.1:0 --json")]
    ServePaid(serve::ServeArguments),

    /// Claim for devices that sleep: a watchtower, to which `serve-paid --watchtower` hands its claims
    #[command(after_help = "\
It can do nothing with a claim but send it, and the claim pays its owner; it pays the gas. It serves the session keys
of this household's devices, or those named with --for (`hearth wallet sessions` shows a device's key).

Examples:
  hearth watch
  hearth watch --for 0x4f3a… --listen 192.168.1.5:4022 --json")]
    Watch(watch::WatchArguments),

    /// Ask for a URL and pay what it costs, after showing the price
    #[command(after_help = "\
Only assets that are listed in config.toml are spent, and never more than its limits.

Examples:
  hearth pay http://127.0.0.1:4021/weather
  hearth pay http://127.0.0.1:4021/ask --method POST --header 'content-type: text/plain' --data 'hello' --yes --json")]
    Pay(pay::PayArguments),

    /// Show what was promised, charged and claimed on channels; take back or claim what is due
    #[command(after_help = "\
Examples:
  hearth channels                                   both sides, as this device knows them
  hearth channels open http://127.0.0.1:4021/ --deposit 2
                                                    put a deposit into a new channel, by a transaction of your own
  hearth channels refund http://127.0.0.1:4021/     ask a service to return what is left
  hearth channels close 0x5c50…                     take it back without the service, in two steps
  hearth channels claim                             take what was earned (`hearth up` may run, `serve-paid` not)")]
    Channels(channels::ChannelArguments),

    /// Run the node as a service of systemd or launchd
    #[command(
        subcommand,
        after_help = "\
The passphrase is read from a file that only you can read.

Examples:
  hearth service install --passphrase-file ~/.config/hearth-passphrase
  hearth service print --manager launchd --passphrase-file ~/.config/hearth-passphrase"
    )]
    Service(service::ServiceCommand),

    /// Look at everything this device needs, and say what mends what is missing
    #[command(after_help = "\
The exit code is 0 when nothing has to be mended, 1 otherwise.

Examples:
  hearth doctor
  hearth doctor --json")]
    Doctor,

    /// Read what strangers wrote, for a node that starts this by itself
    #[command(hide = true)]
    Reader,
}
