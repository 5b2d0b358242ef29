//! The WireGuard device by itself, for its tests: `wireguard_device RUN_DIR INTERFACE PORT ALLOW DENY`, the last two
//! with commas. Where `vpnd` is at hand, it is `vpnd wireguard-device`.

use runtime::engine::wireguard::{DeviceConfig, run_device};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [run_dir, interface, port, allow, deny] = arguments.as_slice() else {
        anyhow::bail!("wireguard_device RUN_DIR INTERFACE PORT ALLOW DENY")
    };
    let list = |text: &str| text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let config = DeviceConfig {
        run_dir: run_dir.into(),
        interface: interface.clone(),
        port: port.parse()?,
        allow: list(allow).iter().map(|range| range.parse()).collect::<Result<_, _>>()?,
        deny: list(deny).iter().map(|address| address.parse()).collect::<Result<_, _>>()?,
    };
    run_device(&config)?;
    Ok(())
}
