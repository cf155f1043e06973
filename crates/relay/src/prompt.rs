//! Questions, asked only where somebody sits at a terminal.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::Path,
};

use zeroize::Zeroizing;

use crate::error::Failure;

/// Whether a question may be asked: stdin and stderr are terminals, and nobody forbade it.
pub fn possible(no_input: bool) -> bool {
    !no_input && io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a secret without showing it.
pub fn secret(question: &str) -> Result<Zeroizing<String>, Failure> {
    eprint!("{question}: ");
    let answer = rpassword::read_password().map_err(Failure::from)?;
    Ok(Zeroizing::new(answer))
}

/// Asks to type the object's name.
pub fn confirm(action: &str, object: &str) -> Result<bool, Failure> {
    eprint!("{action} {object}? Type its name to go on: ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == object)
}

/// Reads a secret from a file that others cannot read, or from stdin for `-`. One line end is cut.
pub fn secret_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let text = if path == Path::new("-") {
        io::read_to_string(io::stdin())?
    } else {
        relay_client::keys::refuse_open_to_others(path)
            .map_err(|error| Failure::usage(error.to_string()))?;
        std::fs::read_to_string(path).map_err(|error| crate::files::at(path, &error))?
    };
    let text = Zeroizing::new(text);
    Ok(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()))
}
