//! The command tree, the flags of every command, and how one run goes.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::{
    app::App,
    commands, complete,
    error::{Failure, Outcome, exit},
    output::Format,
    progress::ProgressMode,
    seed_args, times,
};

/// Signed events, live streams and locks with fencing tokens: one relay for your people and programs.
#[derive(Debug, Parser)]
#[command(name = "relay", version, disable_help_subcommand = true)]
#[command(after_help = "\
First steps:
  relay serve                     start a relay here
  relay keys gen                  make a key
  relay event publish --content hello")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Flags of every command")]
pub struct Global {
    /// Which saved relay to use [env: RELAY_CONTEXT]
    #[arg(long, global = true, value_name = "NAME", add = complete::context_names())]
    pub context: Option<String>,
    /// This relay instead: https://… or unix:PATH [env: RELAY_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// Signing key: an OpenSSH or PEM file; agent: or agent:NAME for one that ssh-agent holds
    #[arg(long, global = true, value_name = "PATH", env = "RELAY_KEY")]
    pub key: Option<PathBuf>,
    /// Bearer token instead of a key
    #[arg(long, global = true, value_name = "PATH", env = "RELAY_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// File with the passphrase of the key; - is stdin
    #[arg(long, global = true, value_name = "PATH", env = "RELAY_PASSPHRASE_FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Namespace
    #[arg(short, long, global = true, value_name = "NS", env = "RELAY_NS", add = complete::namespaces())]
    pub ns: Option<String>,
    /// Form of the data on stdout
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORM",
        env = "RELAY_OUTPUT",
        default_value = "auto"
    )]
    pub output: Format,
    /// Same as -o json
    #[arg(long, global = true)]
    pub json: bool,
    /// Only these members of the answer
    #[arg(long, global = true, value_name = "A,B", value_delimiter = ',')]
    pub fields: Vec<String>,
    /// Cut nothing in tables
    #[arg(long, global = true)]
    pub wide: bool,
    /// Deadline of one operation
    #[arg(long, global = true, value_name = "DUR", env = "RELAY_TIMEOUT", default_value = "10s",
          value_parser = times::parse_duration)]
    pub timeout: Duration,
    /// Colour of help and messages
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// For screen readers: no bars, boxes, colour or redraw
    #[arg(long, global = true, env = "RELAY_PLAIN", value_parser = clap::builder::FalseyValueParser::new())]
    pub plain: bool,
    /// Say less
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub quiet: u8,
    /// Say more; twice for causes
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Never ask
    #[arg(long, global = true, env = "RELAY_NO_INPUT", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_input: bool,
    /// Answer every question with yes
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// How to show progress
    #[arg(long, global = true, value_name = "FORM", default_value = "auto")]
    pub progress: ProgressMode,
    /// Configuration file of the relay; repeatable, later wins
    #[arg(long, global = true, value_name = "PATH", env = "RELAY_CONFIG")]
    pub config: Vec<PathBuf>,
}

impl Global {
    /// The flags in these words, with the environment and the defaults; `None` where they are no such flags.
    pub fn of_words(words: Vec<String>) -> Option<Self> {
        /// Nothing but the flags of every command.
        #[derive(Debug, Parser)]
        struct Flags {
            #[command(flatten)]
            global: Global,
        }
        let words = std::iter::once("relay".to_owned()).chain(words);
        Flags::try_parse_from(words).ok().map(|flags| flags.global)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a relay
    Serve(commands::serve::Serve),
    /// Host a script: on the relay of this machine, else in one of its own
    Run(commands::run::Run),
    /// Make a program of this machine a service
    Expose(commands::expose::Expose),
    /// Call a service, here or anywhere
    Call(commands::call::Call),
    /// What services there are
    Services(commands::services::ServicesGroup),
    /// Become a spoke of a hub, by its join code
    Join(commands::join::Join),
    /// Leave the hub that was joined
    Leave(commands::join::Leave),
    /// Other hubs of this hub
    Peers(commands::hubs::PeersGroup),
    /// Home relays of this hub
    Spokes(commands::hubs::SpokesGroup),
    /// Measure the way to another relay and back
    Ping(commands::topology::Ping),
    /// Hubs, home relays and links
    Topology(commands::topology::Topology),
    /// What the relay is doing, again and again
    Top(commands::topology::Top),
    /// A certificate authority for hubs
    Ca(commands::ca::CaGroup),
    /// Which relay has which key and address
    Directory(commands::directory::DirectoryGroup),
    /// What runs on the relay of this machine
    Actors(commands::actors::ActorsGroup),
    /// Write what a relay needs before its first start
    Init(commands::init::Init),
    /// What the relay is, and whether it is well
    Status(commands::operate::Status),
    /// Let the relay read its configuration again
    Reload(commands::operate::Reload),
    /// Let the relay finish what is under way and stop
    Drain(commands::operate::Drain),
    /// Make, show, convert and rotate keys
    Keys(commands::keys::Keys),
    /// Publish, find and follow signed events
    Event(commands::event::EventGroup),
    /// Hold locks, and run commands under them
    Lock(commands::lock::LockGroup),
    /// Prove your key, and remember the relay
    Login(commands::session::Login),
    /// End the session
    Logout(commands::session::Logout),
    /// Show who you are to the relay
    Whoami(commands::session::Whoami),
    /// List and end your sessions
    Session(commands::session::SessionGroup),
    /// Encrypted conversations
    #[cfg(feature = "chat")]
    Chat(commands::chat::ChatGroup),
    /// Your chats on the whole screen
    #[cfg(feature = "tui")]
    #[command(after_help = commands::tui::EXAMPLES)]
    Tui(commands::tui::Tui),
    /// Devices of your chats
    #[cfg(feature = "chat")]
    Device(commands::device::DeviceGroup),
    /// Who is there, and who sees you
    #[cfg(feature = "chat")]
    Presence(commands::presence::PresenceGroup),
    /// Posts, people, topics (Polycentric)
    Social(commands::social::SocialGroup),
    /// Saved relays
    Context(commands::context::ContextGroup),
    /// Who may do what
    Acl(commands::access::Acl),
    /// What a tenant uses and may use
    Quota(commands::access::Quota),
    /// What was refused, and what administrators did
    Audit(commands::access::Audit),
    /// Tokens that an operator hands out
    Token(commands::access::Token),
    /// Invite somebody: the same as `token create --for user`
    Invite(commands::access::Invite),
    /// Users of this relay
    User(commands::user::UserGroup),
    /// Send any request
    Api(commands::api::Api),
    /// The relay's configuration
    Config(commands::config::ConfigGroup),
    /// The relay's database
    Store(commands::store::StoreGroup),
    /// Look for what is wrong, here and on the way to the relay
    Doctor(commands::doctor::Doctor),
    /// Answer one question of a monitoring system
    Check(commands::doctor::Check),
    /// Material for a bug report
    Debug(commands::debug::Debug),
    /// Explain an error code
    Explain(commands::about::Explain),
    /// Print a script that completes commands
    Completions(commands::about::Completions),
    /// Print manual pages
    Man(commands::about::Man),
    /// Print the version
    Version(commands::about::Version),
    /// Part of `lock run`: becomes the command, and dies with its parent
    #[command(name = "__child", hide = true)]
    Child(commands::lock::child::Child),
}

/// Runs one command line and returns its exit code.
pub fn run(args: Vec<OsString>) -> u8 {
    let json_wanted = wants_json(&args);
    let args = match seed_args::translate(args) {
        Ok(args) => args,
        Err(failure) => {
            failure.report(json_wanted);
            return failure.exit;
        }
    };
    let matches = match command().color(color(&args)).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return usage_error(&error, json_wanted),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error, json_wanted),
    };
    let app = App::new(cli.global);
    let outcome = match cli.command {
        Some(command) => dispatch(&app, command),
        None => Ok(no_command()),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.report(app.out.is_json());
            if failure.silent { 0 } else { failure.exit }
        }
    }
}

/// The command tree with the exit codes on every help page.
pub fn command() -> clap::Command {
    with_exit_codes(Cli::command())
}

fn dispatch(app: &App, command: Command) -> Outcome {
    // The helper becomes another program: it must not carry a runtime's threads.
    if let Command::Child(child) = command {
        return child.run();
    }
    if logs_to_stderr(&command) {
        commands::serve::log(&app.global);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // The command itself runs on this thread, which lives as long as the process: the kernel's
    // parent-death signal of `lock run` goes by the thread that started the child.
    let outcome = runtime.block_on(async {
        match command {
            Command::Serve(command) => Box::pin(command.run(app)).await,
            Command::Run(command) => Box::pin(command.run(app)).await,
            Command::Expose(command) => Box::pin(command.run(app)).await,
            Command::Call(command) => Box::pin(command.run(app)).await,
            Command::Services(command) => Box::pin(command.run(app)).await,
            Command::Actors(command) => Box::pin(command.run(app)).await,
            Command::Join(command) => Box::pin(command.run(app)).await,
            Command::Leave(command) => command.run(app).await,
            Command::Peers(command) => command.run(app).await,
            Command::Spokes(command) => command.run(app).await,
            Command::Ping(command) => command.run(app).await,
            Command::Topology(command) => command.run(app).await,
            Command::Top(command) => command.run(app).await,
            Command::Ca(command) => command.run(app),
            Command::Directory(command) => Box::pin(command.run(app)).await,
            Command::Init(command) => command.run(app),
            Command::Status(command) => command.run(app).await,
            Command::Reload(command) => command.run(app).await,
            Command::Drain(command) => command.run(app).await,
            Command::Keys(command) => command.run(app).await,
            Command::Event(command) => command.run(app).await,
            Command::Lock(command) => command.run(app).await,
            Command::Login(command) => command.run(app).await,
            Command::Logout(command) => command.run(app).await,
            Command::Whoami(command) => command.run(app).await,
            Command::Session(command) => command.run(app).await,
            #[cfg(feature = "chat")]
            Command::Chat(command) => Box::pin(command.run(app)).await,
            #[cfg(feature = "tui")]
            Command::Tui(command) => Box::pin(command.run(app)).await,
            #[cfg(feature = "chat")]
            Command::Device(command) => Box::pin(command.run(app)).await,
            #[cfg(feature = "chat")]
            Command::Presence(command) => Box::pin(command.run(app)).await,
            Command::Social(command) => command.run(app).await,
            Command::Context(command) => command.run(app),
            Command::Acl(command) => command.run(app).await,
            Command::Quota(command) => command.run(app).await,
            Command::Audit(command) => command.run(app).await,
            Command::Token(command) => command.run(app).await,
            Command::Invite(command) => command.run(app).await,
            Command::User(command) => command.run(app).await,
            Command::Api(command) => command.run(app).await,
            Command::Config(command) => command.run(app).await,
            Command::Store(command) => command.run(app).await,
            Command::Doctor(command) => command.run(app).await,
            Command::Check(command) => command.run(app).await,
            Command::Debug(command) => command.run(app).await,
            Command::Explain(command) => command.run(app),
            Command::Completions(command) => command.run(),
            Command::Man(command) => command.run(),
            Command::Version(command) => command.run(app),
            Command::Child(_) => Ok(exit::FAILED),
        }
    });
    // A blocked read of stdin must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

/// Whether what is logged may go to stderr: servers have a log of their own, and a screen would be written over.
fn logs_to_stderr(command: &Command) -> bool {
    #[cfg(feature = "tui")]
    if matches!(command, Command::Tui(_)) {
        return false;
    }
    !matches!(command, Command::Serve(_) | Command::Run(_))
}

/// `relay` alone: help on a terminal, else a usage error.
fn no_command() -> u8 {
    let help = command().render_help();
    if crate::output::stdout_is_terminal() {
        print!("{help}");
        return 0;
    }
    eprint!("{help}");
    exit::USAGE
}

fn usage_error(error: &clap::Error, json: bool) -> u8 {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion) || !json {
        // Help that nobody reads to the end is no failure.
        let _ = error.print();
        return u8::try_from(error.exit_code()).unwrap_or(exit::USAGE);
    }
    let text = error.render().to_string();
    let first = text.lines().next().unwrap_or_default();
    let failure = Failure::usage(first.strip_prefix("error: ").unwrap_or(first));
    failure.report(true);
    failure.exit
}

fn wants_json(args: &[OsString]) -> bool {
    let texts = args.iter().take_while(|arg| *arg != "--").filter_map(|arg| arg.to_str());
    let texts: Vec<_> = texts.collect();
    let json = |text: &str| matches!(text, "json" | "ndjson");
    texts.contains(&"--json")
        || texts.windows(2).any(|pair| matches!(pair, ["-o" | "--output", form] if json(form)))
        || texts.iter().any(|arg| arg.strip_prefix("--output=").is_some_and(json))
        || texts.iter().any(|arg| arg.strip_prefix("-o").is_some_and(json))
        || std::env::var("RELAY_OUTPUT").is_ok_and(|form| json(&form))
}

/// What `--color`, `NO_COLOR` and `CLICOLOR_FORCE` say, before the arguments are read.
fn color(args: &[OsString]) -> ColorChoice {
    let texts: Vec<_> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let asked = texts.windows(2).find_map(|pair| match pair {
        ["--color", when] => Some(*when),
        _ => None,
    });
    let asked = asked.or_else(|| texts.iter().find_map(|arg| arg.strip_prefix("--color=")));
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match asked {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ if set("NO_COLOR") || texts.contains(&"--plain") => ColorChoice::Never,
        _ if set("CLICOLOR_FORCE") => ColorChoice::Always,
        _ => ColorChoice::Auto,
    }
}

const EXIT_CODES: &str = "\
Exit codes:
  0 done   1 failed   2 usage   3 not found   4 not allowed   5 someone else has it
  6 no longer yours   7 cannot reach   8 took too long   9 slow down";

fn with_exit_codes(mut command: clap::Command) -> clap::Command {
    let names: Vec<String> =
        command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, with_exit_codes);
    }
    let own = command.get_after_help().map(ToString::to_string);
    match own {
        Some(own) if own.contains("Exit codes:") => command,
        Some(own) => command.after_help(format!("{own}\n\n{EXIT_CODES}")),
        None => command.after_help(EXIT_CODES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        command().debug_assert();
    }

    /// An argument with the name of a global flag would be read as that flag.
    #[test]
    fn no_argument_takes_the_name_of_a_global_flag() {
        fn walk(path: &str, command: &clap::Command, global: &[String]) {
            for arg in command.get_arguments().filter(|arg| !arg.is_global_set()) {
                let clash = global.contains(&arg.get_id().to_string());
                assert!(!clash, "{path}: '{}' is a global flag as well", arg.get_id());
            }
            for sub in command.get_subcommands() {
                walk(&format!("{path} {}", sub.get_name()), sub, global);
            }
        }
        let global: Vec<String> = command()
            .get_arguments()
            .filter(|arg| arg.is_global_set())
            .map(|arg| arg.get_id().to_string())
            .collect();
        assert!(global.len() > 10);
        walk("relay", &command(), &global);
    }

    /// Every command that can be run shows two examples that parse.
    #[test]
    fn every_help_page_has_two_examples_that_parse() {
        fn walk(path: &str, command: &clap::Command, pages: &mut Vec<(String, String)>) {
            let subs: Vec<_> = command.get_subcommands().filter(|sub| !sub.is_hide_set()).collect();
            for sub in &subs {
                walk(&format!("{path} {}", sub.get_name()), sub, pages);
            }
            if subs.is_empty() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                pages.push((path.to_owned(), help));
            }
        }
        let mut pages = Vec::new();
        walk("relay", &command(), &mut pages);
        for (path, help) in pages {
            assert!(help.contains("Exit codes:"), "{path}: no exit codes");
            let examples: Vec<_> =
                help.lines().filter_map(|line| line.strip_prefix("  relay ")).collect();
            assert!(examples.len() >= 2, "{path}: {} examples", examples.len());
            for example in examples {
                let example = example.split(" | ").next().unwrap().split("   ").next().unwrap();
                let example = example.split(" < ").next().unwrap().split(" > ").next().unwrap();
                let words = split_words(example);
                let parsed =
                    command().try_get_matches_from(["relay".to_owned()].into_iter().chain(words));
                assert!(parsed.is_ok(), "{path}: relay {example}: {}", parsed.unwrap_err());
            }
        }
    }

    fn split_words(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (index, part) in text.split('\'').enumerate() {
            if index % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        words
    }

    #[test]
    fn a_typing_error_is_met_with_a_proposal() {
        let error = command().try_get_matches_from(["relay", "lock", "aquire"]).unwrap_err();
        assert!(error.to_string().contains("acquire"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
