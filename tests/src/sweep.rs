//! Takes away what a house leaves whose process was itself killed: its instances and its bus outlive it by design.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
};

use testkit::programs::program;

use crate::programs::said;

/// What the folder of a house is called: this, the id of its process, and more.
const FOLDER: &str = "vpn-house";
/// What its node is called, in the same way.
const NODE: &str = "test";
/// The label by which a container knows its node.
const LABEL: &str = "vpn.node";

/// How the folders of this process's houses begin. What others left is taken away, once.
pub(crate) fn folder() -> String {
    static SWEEP: Once = Once::new();
    SWEEP.call_once(|| {
        folders_of_the_dead();
        containers_of_the_dead();
    });
    format!("{FOLDER}-{}-", std::process::id())
}

/// What a node of this process is called.
pub(crate) fn node(number: u16) -> String {
    format!("{NODE}-{}-{number}", std::process::id())
}

/// The processes whose command line names something in `folder`.
pub(crate) fn processes(folder: &Path) -> BTreeMap<u32, String> {
    let inside = format!("{}/", folder.display());
    let mut found = BTreeMap::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&inside) {
            found.insert(pid, line);
        }
    }
    found
}

/// Kills them.
pub(crate) fn kill(folder: &Path) {
    for pid in processes(folder).into_keys() {
        let _ = said(Command::new("kill").args(["-9", &pid.to_string()]));
    }
}

/// Removes the containers of a node.
pub(crate) fn remove(mut docker: impl FnMut() -> Command, node: &str) {
    let mut list = docker();
    let listed = said(list.args(["ps", "-aq", "--filter", &format!("label={LABEL}={node}")]));
    for container in listed.unwrap_or_default().lines() {
        let _ = said(docker().args(["rm", "-f", container]));
    }
}

fn folders_of_the_dead() {
    let folders = fs::read_dir(std::env::temp_dir()).unwrap().flatten().map(|entry| entry.path());
    for folder in
        folders.filter(|path| is_of_the_dead(&path.file_name().unwrap_or_default().to_string_lossy(), FOLDER))
    {
        kill(&folder);
        for mount in mounts(&folder) {
            let _ = said(Command::new(program("umount")).arg("-l").arg(mount));
        }
        let _ = fs::remove_dir_all(&folder);
    }
}

fn containers_of_the_dead() {
    // Where there is no daemon there is nothing to take away.
    let format = format!("{{{{.Label \"{LABEL}\"}}}}");
    let docker = || Command::new("docker");
    let listed = docker().args(["ps", "-a", "--format", &format]).output();
    let listed =
        listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for node in listed.lines().filter(|node| is_of_the_dead(node, NODE)) {
        remove(docker, node);
    }
}

/// Whether a name holds the id of a process that is no more.
fn is_of_the_dead(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
    let pid = rest.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

fn mounts(folder: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let places = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    places.filter(|place| place.starts_with(folder)).collect()
}
