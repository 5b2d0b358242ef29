//! Where the pinned programs are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The path of a program: of `tools/bin` before `PATH`, so that tests run the pinned version.
///
/// # Panics
/// Where it is in neither: a test whose program is missing has failed, not passed.
pub fn program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    // A plain user's PATH lacks the folders of `ip`, `nft` and `dockerd`.
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::iter::once(workspace().join("tools/bin"))
        .chain(env::split_paths(&path))
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("the program `{name}` is missing: run `make setup`"))
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|folder| folder.join("tools/versions.env").is_file())
        .expect("the workspace has tools/versions.env")
        .to_owned()
}
