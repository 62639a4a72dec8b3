//! `login`, `logout`.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use longshore_registry_client::{Credential, Credentials as _, DockerConfigFile, StaticCredentials};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::app::{self, App};
use crate::failure::{Failure, Result, chain};
use crate::output;
use crate::registry::trust_realm;

/// Docker's own name for Docker Hub in `config.json`.
const HUB: &str = "https://index.docker.io/v1/";

/// Bytes of a password; tokens have some thousand.
const PASSWORD_MAX: usize = 1 << 20;

/// `login`
#[derive(Args, Debug)]
pub(crate) struct LoginArgs {
    /// Password
    #[arg(short, long)]
    password: Option<String>,
    /// Take the password from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Username
    #[arg(short, long)]
    username: Option<String>,
    /// Registry; Docker Hub if it is left out
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// `logout`
#[derive(Args, Debug)]
pub(crate) struct LogoutArgs {
    /// Registry; Docker Hub if it is left out
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

pub(crate) fn login(app: &App, args: &LoginArgs) -> Result<()> {
    let file = config()?;
    let registry = host(args.server.as_deref().unwrap_or("docker.io"));
    if args.password.is_some() {
        output::note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        if args.password_stdin {
            return Err(Failure::new("--password and --password-stdin are mutually exclusive"));
        }
    }
    if args.username.is_none()
        && args.password.is_none()
        && !args.password_stdin
        && logged_in(app, &file, registry)?
    {
        return Ok(());
    }
    let username = match &args.username {
        Some(name) => name.clone(),
        None if args.password_stdin => {
            return Err(Failure::new("Must provide --username with --password-stdin"));
        }
        None => ask(app, "Username: ", false)?,
    };
    if username.is_empty() {
        return Err(Failure::new("Error: Non-null Username Required"));
    }
    let given = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => read_all(app)?.trim_end_matches(['\r', '\n']).to_owned(),
        None => String::new(),
    };
    // Nothing given is as good as not given.
    let password = if given.is_empty() { ask(app, "Password: ", true)? } else { given };
    if password.is_empty() {
        return Err(Failure::new("Error: Password Required"));
    }
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let credential = Credential::basic(username, password);
    // Only a login that the registry takes is kept.
    attempt(app, registry, &credential)?.map_err(|e| failed(registry, &e))?;
    DockerConfigFile::login(&file, registry, &credential)?;
    if !DockerConfigFile::open(&file)?.has_helper(registry) {
        output::note(&format!(
            "WARNING! Your password will be stored unencrypted in {}.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/engine/reference/commandline/login/#credentials-store\n",
            file.display()
        ));
    }
    output::line("Login Succeeded");
    Ok(())
}

/// Whether the registry takes the credentials that are kept for it, if there are any.
fn logged_in(app: &App, file: &Path, registry: &str) -> Result<bool> {
    let Some(credential) = DockerConfigFile::open(file)?.get(registry)? else { return Ok(false) };
    output::line("Authenticating with existing credentials...");
    match attempt(app, registry, &credential)? {
        Ok(()) => {
            output::line("Login Succeeded");
            Ok(true)
        }
        // No other password helps where the login was withheld.
        Err(error) if error.is_auth() && trust_realm(&error).is_none() => {
            output::note(&format!("Login did not succeed, error: {}", chain(&error)));
            Ok(false)
        }
        Err(error) => Err(failed(registry, &error)),
    }
}

/// The registry's answer to these credentials.
fn attempt(
    app: &App,
    registry: &str,
    credential: &Credential,
) -> Result<Result<(), longshore_registry_client::Error>> {
    let known = StaticCredentials::new().with(registry, credential.clone());
    let builder = app.options()?.registry().map_err(|e| Failure::from(&*e))?.credentials(known);
    let answer = builder.cancel(app.token()).build()?.ping(registry);
    if answer.is_ok() && app.cancelled() {
        return Err(Failure::new("cancelled"));
    }
    Ok(answer)
}

fn failed(registry: &str, error: &longshore_registry_client::Error) -> Failure {
    let cure = trust_realm(error).map(|cure| format!(", {cure}")).unwrap_or_default();
    Failure::new(format!("login attempt to {registry} failed{cure}: {}", chain(error)))
}

pub(crate) fn logout(args: &LogoutArgs) -> Result<()> {
    // Like docker, whether there are any or not.
    let said = args.server.as_deref().map_or(HUB, bare);
    output::line(&format!("Removing login credentials for {said}"));
    DockerConfigFile::logout(config()?, host(args.server.as_deref().unwrap_or("docker.io")))?;
    Ok(())
}

/// The registry's host, however it was written.
fn host(server: &str) -> &str {
    match bare(server) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// Without scheme and path.
fn bare(server: &str) -> &str {
    let bare = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    bare.split('/').next().unwrap_or(bare)
}

fn config() -> Result<PathBuf> {
    app::docker_config().ok_or_else(|| Failure::new("no home directory: set HOME or DOCKER_CONFIG"))
}

/// Asks on the terminal; a secret is not echoed.
fn ask(app: &App, prompt: &str, secret: bool) -> Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::new("Error: Cannot perform an interactive login from a non TTY device"));
    }
    print(prompt)?;
    let mut answer = String::new();
    if secret {
        let before = rustix::termios::tcgetattr(&stdin)?;
        let mut silent = before.clone();
        silent.local_modes.remove(rustix::termios::LocalModes::ECHO);
        rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Flush, &silent)?;
        let read = read_line(app, &mut answer);
        rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Flush, &before)?;
        print("\n")?;
        read?;
    } else {
        read_line(app, &mut answer)?;
    }
    Ok(answer.trim().to_owned())
}

/// Reads what the user enters, unless an interrupt comes first.
fn read_line(app: &App, answer: &mut String) -> Result<()> {
    wait_for_input(app)?;
    std::io::stdin().lock().read_line(answer)?;
    Ok(())
}

/// Reads standard input to its end, unless an interrupt comes first.
fn read_all(app: &App) -> Result<String> {
    let (mut stdin, mut all, mut some) = (std::io::stdin().lock(), Vec::new(), [0; 4096]);
    while all.len() <= PASSWORD_MAX {
        wait_for_input(app)?;
        match stdin.read(&mut some)? {
            0 => return String::from_utf8(all).map_err(|_| Failure::new("the password is not UTF-8")),
            n => all.extend_from_slice(&some[..n]),
        }
    }
    Err(Failure::new(format!("the password is longer than {PASSWORD_MAX} bytes")))
}

/// By itself a read goes on after a signal.
fn wait_for_input(app: &App) -> Result<()> {
    let stdin = std::io::stdin();
    let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    loop {
        if app.cancelled() {
            return Err(Failure::silent(130));
        }
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&pause)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
