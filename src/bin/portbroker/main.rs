//! `portbroker`, the command-line tool: asks the broker, and prints what it says.
//!
//! One file a verb; [`args`] is the command line, [`output`] the form of what is printed, [`progress`] what is said
//! meanwhile, and [`failure`] what an exit status means.

mod activate;
mod agent;
mod args;
mod bar;
mod cat_config;
mod check;
mod deposit;
mod doctor;
mod exec;
mod failure;
mod forecast;
mod help;
mod import;
mod learned;
mod lease;
mod leases;
mod listeners;
mod output;
mod packaging;
mod pager;
mod plan;
mod plot;
mod pools;
mod progress;
mod reload;
mod renew;
mod status;
mod store;
mod terminal;
mod top;
mod who;

use clap::Parser;

fn main() -> std::process::ExitCode {
    args::Arguments::parse().run()
}
