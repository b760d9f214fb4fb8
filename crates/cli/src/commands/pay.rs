//! `hearth pay`.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use hearth_api::payments::{Paid, PaidSums, Payment};
use hearth_node::trade::{Answer, Request};
use hearth_node::wallet;

use crate::failure::Failure;
use crate::global::Global;
use crate::purse::Purse;
use crate::screen::print;
use crate::wait;

/// The longest body that is sent, in bytes.
const BODY_BYTES_MAX: u64 = 4 << 20;

/// What to ask for.
#[derive(Debug, Args)]
pub(crate) struct PayArguments {
    /// The address
    url: String,

    /// The HTTP method; POST where there is a body, else GET
    #[arg(long, short = 'X', value_name = "METHOD")]
    method: Option<String>,

    /// A header, as "name: value"; may be repeated
    #[arg(long, short = 'H', value_name = "HEADER")]
    header: Vec<String>,

    /// The body; `@FILE` reads it from a file, `@-` from the standard input
    #[arg(long, short = 'd', value_name = "TEXT")]
    data: Option<String>,

    /// Write the body of the answer to this file
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,

    /// Do not ask, pay what is within the limits
    #[arg(long)]
    yes: bool,

    /// Ask so many times, one after the other, and print the sums instead of the answers
    #[arg(long, value_name = "N", requires = "yes", conflicts_with = "output", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    times: Option<u64>,

    /// Keep trying for so many seconds when the service cannot be reached; nothing is paid twice
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    patience: u64,
}

/// Asks, pays, prints.
pub(crate) async fn run(global: &Global, arguments: PayArguments) -> Result<ExitCode, Failure> {
    let body = arguments.data.as_deref().map(body).transpose()?;
    let default = if body.is_some() { "POST" } else { "GET" };
    let request = Request {
        method: arguments.method.unwrap_or_else(|| default.to_owned()),
        url: arguments.url,
        headers: arguments.header,
        body: body.unwrap_or_default(),
        patience_s: arguments.patience,
    };
    let purse = Purse::open(global).await?;
    if let Some(times) = arguments.times {
        return repeat(global, &purse, &request, times).await;
    }
    let answer = purse.buy(&request, arguments.yes).await?;
    show(global, request.url, arguments.output, answer)
}

/// Asks `times` times. The first answer that is no success, or a failure, ends it; what was paid until then is printed.
async fn repeat(
    global: &Global,
    purse: &Purse,
    request: &Request,
    times: u64,
) -> Result<ExitCode, Failure> {
    let bar = wait::bar(global.json, times, "paid requests");
    let mut sums = PaidSums {
        url: request.url.clone(),
        requests: 0,
        status: 0,
        charged_units: "0".to_owned(),
        charged: Vec::new(),
    };
    let mut charged = 0_u128;
    let mut failure = None;
    while sums.requests < times {
        let answer = match purse.buy(request, true).await {
            Ok(answer) => answer,
            Err(error) => {
                failure = Some(error);
                break;
            }
        };
        sums.status = answer.status;
        if answer.status >= 400 {
            break;
        }
        if let Some(paid) = answer.payment {
            let units = paid.charged.units.parse::<u128>();
            charged = charged.saturating_add(units.unwrap_or(0));
            wallet::add(&mut sums.charged, &paid.charged);
        }
        sums.requests += 1;
        bar.inc(1);
    }
    bar.finish_and_clear();
    sums.charged_units = charged.to_string();
    print(&sums, global.json)?;
    match failure {
        Some(failure) => Err(failure),
        None if sums.requests < times => Ok(ExitCode::FAILURE),
        None => Ok(ExitCode::SUCCESS),
    }
}

impl crate::screen::Show for PaidSums {
    fn show(&self, page: &mut crate::screen::Page) {
        let charged = self.charged.iter();
        let charged: Vec<_> = charged
            .map(|money| format!("{} {}", money.amount, money.symbol))
            .collect();
        let charged = match charged.as_slice() {
            [] => "nothing was charged".to_owned(),
            sums => format!("charged {}", sums.join(" and ")),
        };
        page.line(&format!(
            "{} requests were answered, the last with HTTP {}; {charged}.",
            self.requests, self.status
        ));
    }
}

fn body(data: &str) -> Result<Vec<u8>, Failure> {
    let Some(place) = data.strip_prefix('@') else {
        return Ok(data.as_bytes().to_vec());
    };
    let unreadable = |error: std::io::Error| {
        Failure::new(
            "body",
            format!("the body {place:?} cannot be read: {error}"),
            "Check the path after --data @",
        )
    };
    let source: Box<dyn Read> = if place == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(place).map_err(unreadable)?)
    };
    let mut bytes = Vec::new();
    source
        .take(BODY_BYTES_MAX.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).map_or(true, |length| length > BODY_BYTES_MAX) {
        let message = format!("the body is longer than {BODY_BYTES_MAX} bytes");
        return Err(Failure::new("body", message, "Send less at once"));
    }
    Ok(bytes)
}

/// The body goes to the standard output or a file, what it cost to the standard error; with `--json` all is in one
/// document.
fn show(
    global: &Global,
    url: String,
    output: Option<PathBuf>,
    answer: Answer,
) -> Result<ExitCode, Failure> {
    if let Some(path) = &output {
        std::fs::write(path, &answer.body).map_err(|error| {
            Failure::new(
                "output",
                format!("{} cannot be written: {error}", path.display()),
                "Choose another file with --output",
            )
        })?;
    }
    let in_document = global.json && output.is_none();
    let text = std::str::from_utf8(&answer.body)
        .ok()
        .filter(|_| in_document);
    let paid = Paid {
        url,
        status: answer.status,
        payment: answer.payment,
        body: text.map(str::to_owned),
        body_bytes: answer.body.len(),
        output: output.as_ref().map(|path| path.display().to_string()),
    };
    if global.json {
        print_json(&paid)?;
    } else {
        eprintln!("{}", summary(&paid));
        if output.is_none() {
            let mut stdout = std::io::stdout().lock();
            let written = stdout.write_all(&answer.body).and_then(|()| stdout.flush());
            written.map_err(|error| {
                let message = format!("the answer could not be written: {error}");
                Failure::new("output", message, "Check where the output goes")
            })?;
        }
    }
    Ok(if paid.status < 400 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print_json(paid: &Paid) -> Result<(), Failure> {
    print(&Document(paid), true)
}

/// What was paid, as a document only: for people it is split between two streams.
#[derive(serde::Serialize)]
struct Document<'a>(&'a Paid);

impl crate::screen::Show for Document<'_> {
    fn show(&self, page: &mut crate::screen::Page) {
        page.line(&summary(self.0));
    }
}

fn summary(paid: &Paid) -> String {
    match &paid.payment {
        None => format!("HTTP {}: free", paid.status),
        Some(Payment {
            charged,
            scheme,
            pay_to,
            transaction,
            ..
        }) => {
            let how = transaction
                .as_ref()
                .map_or_else(String::new, |hash| format!(", transaction {hash}"));
            format!(
                "HTTP {}: charged {} {} ({scheme} to {pay_to}{how})",
                paid.status, charged.amount, charged.symbol
            )
        }
    }
}
