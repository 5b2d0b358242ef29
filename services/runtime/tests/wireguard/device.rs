//! The device by itself, for its tests: what `vpnd wireguard-device` does, without the rest of `vpnd`.
//!
//! `--early-thread` starts a thread before the device, which must not be.

use std::{error::Error, thread, time::Duration};

use runtime::engine::wireguard::{DeviceConfig, run_device};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut config = DeviceConfig {
        run_dir: "/run/vpn".into(),
        interface: String::new(),
        port: 51820.try_into()?,
        allow: Vec::new(),
        deny: Vec::new(),
    };
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "wireguard-device" => {}
            "--early-thread" => drop(thread::spawn(|| thread::sleep(Duration::from_secs(60)))),
            name => {
                let value = arguments.next().ok_or("an option without its value")?;
                match name {
                    "--run-dir" => config.run_dir = value.into(),
                    "--interface" => config.interface = value,
                    "--port" => config.port = value.parse()?,
                    "--allow" => config.allow.push(value.parse()?),
                    "--deny" => config.deny.push(value.parse()?),
                    _ => return Err(name.into()),
                }
            }
        }
    }
    run_device(&config)?;
    Ok(())
}
