//! `make demo`: the house from nothing to a page through a VPN, and one trace that shows it.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "what does not work ends the demo with its reason, and its output is what it is for"
)]

mod screen;

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use bus::{Bus, origin};
use clap::Parser;
use contract::{
    Protocol,
    keys::{Link, ServerLink},
};
use flows::{
    House,
    house::Plan,
    internet::{Internet, SITE_NAME},
    programs::said,
};
use screen::{result, say, show, step};
use testkit::{
    jaeger::{Jaeger, Span},
    ports,
    wait::eventually,
    wireguard_client::WireguardClient,
    xray_client::XrayClient,
};
use tracing::{Instrument as _, info_span};

/// The page that is fetched through each server.
const PAGE_BYTES: u64 = 10_000_000;
const PAGE_WITHIN: Duration = Duration::from_secs(60);
/// Credentials and links follow a creation within milliseconds.
const SOON: Duration = Duration::from_secs(20);
/// Whose spans must be in the trace.
const SERVICES: [&str; 4] = ["users", "keys", "fleet", "runtime"];

/// Shows the whole house at work.
#[derive(Parser)]
struct Args {
    /// Where the VPN servers run: docker, or process (child processes: no daemon, no images)
    #[arg(long, default_value = "docker", value_parser = ["docker", "process"])]
    backend: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match demo(&args.backend).await {
        Ok(()) => {
            println!("demo ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What each protocol's page took.
struct Fetch {
    protocol: Protocol,
    bytes: u64,
    seconds: f64,
}

async fn demo(backend: &str) -> anyhow::Result<()> {
    step("Jaeger, which shows traces");
    let jaeger = Jaeger::start().await;
    say(&format!("{} for the time of the demo", jaeger.url()));
    let config = telemetry::Config {
        otlp: Some(jaeger.endpoint()),
        // What its WireGuard clients complain about is that they are stopped.
        filter: "error,gotatun=off".to_owned(),
        ..telemetry::Config::new("demo")
    };
    let telemetry = telemetry::init(&config)?;

    step("two sites in a network of their own: one that REALITY pretends to be, one with a page of 10 MB");
    let internet = Internet::open().await;
    say(&format!("https://{SITE_NAME} and {}", internet.target.bytes_url(PAGE_BYTES)));

    step("vpnd all --embedded-bus: nats-server, users, keys, fleet, and the agent of one node");
    let plan = Plan { node: "demo".to_owned(), otlp: Some(jaeger.endpoint()), ..Plan::on(backend) };
    let mut house = House::start(plan).await;
    let bus = house.bus().await;

    let root = info_span!("demo", vpn.sample = "always");
    let traced = async {
        let traceparent = origin::traceparent().context("the demo has no trace")?;
        let fetched = at_work(&house, &bus, &internet, &traceparent).await?;
        anyhow::Ok((fetched, traceparent))
    };
    let (fetched, traceparent) = traced.instrument(root).await?;
    let trace_id = traceparent.split('-').nth(1).context("a traceparent has a trace id")?;

    step("taking all of it down");
    house.clear().await.map_err(|error| anyhow!(error))?;
    let status = house.vpnd().stop(SOON);
    if !status.success() {
        bail!("vpnd ended with {status}");
    }
    telemetry.shutdown(SOON).await;

    step("the trace of all that, as Jaeger has it");
    let spans = jaeger.wait_for(trace_id, whole, SOON).await;
    let by_service = by_service(&spans);
    for (service, names) in &by_service {
        say(&format!("{service}: {}", counted(names)));
    }

    println!();
    for Fetch { protocol, bytes, seconds } in fetched {
        result(&format!("ok {protocol} {backend} {bytes} {seconds:.3}"));
    }
    let others = by_service.keys().filter(|name| !SERVICES.contains(&name.as_str())).cloned();
    let services: Vec<String> = SERVICES.iter().map(ToString::to_string).chain(others).collect();
    result(&format!("ok trace {trace_id} {} spans: {}", spans.len(), services.join(" ")));
    Ok(())
}

/// Three servers, two users, and a page through each server for each user.
async fn at_work(
    house: &House,
    bus: &Bus,
    internet: &Internet,
    traceparent: &str,
) -> anyhow::Result<Vec<Fetch>> {
    step("a server for each protocol");
    let site = internet.site.address().to_string();
    let reachable = format!("{}/32", internet.address());
    for protocol in Protocol::ALL {
        let (name, port) = (server_name(protocol), ports::free().to_string());
        let mut args = vec!["servers", "create", name, "--protocol", protocol.as_str(), "--port", &port];
        args.extend(["--allow-private", &reachable]);
        if protocol == Protocol::VlessReality {
            args.extend(["--dest", &site, "--server-name", SITE_NAME]);
        }
        vpn(house, &args, traceparent)?;
    }
    for protocol in Protocol::ALL {
        house.runs(bus, server_name(protocol)).await;
    }
    vpn(house, &["servers", "list"], traceparent)?;

    step("a user by vpn, and another by a plain request");
    vpn(house, &["users", "create", "alice", "--note", "by vpn"], traceparent)?;
    let header = format!("traceparent:{traceparent}");
    let request = r#"{"name":"bob","note":"by nats request"}"#;
    let mut nats = house.nats(["request", "--raw", "-H", &header, "vpn.users.create", request]);
    show(&format!("nats request vpn.users.create '{request}'"));
    let reply = said(&mut nats).map_err(|error| anyhow!(error))?;
    say(reply.trim());
    if !reply.contains(r#""name":"bob""#) {
        bail!("bob was not created: {reply}");
    }

    step("their links");
    let alice = links(bus, "alice").await?;
    let bob = links(bus, "bob").await?;
    vpn(house, &["users", "list"], traceparent)?;
    say("vpn link alice --qr would show three secrets here, which a demo's log is no place for");

    step("real clients fetch 10 MB through each server");
    let url = internet.target.bytes_url(PAGE_BYTES);
    let mut fetched = Vec::new();
    for protocol in Protocol::ALL {
        for (user, links) in [("alice", &alice), ("bob", &bob)] {
            let link = links.iter().find(|link| link.protocol == protocol).context("a link is missing")?;
            let page = fetch(protocol, &link.link, &url)
                .await
                .with_context(|| format!("{user} does not get a page through {protocol}"))?;
            say(&format!("{user} through {protocol}: {} bytes in {:.3} s", page.bytes, page.seconds));
            if page.bytes != PAGE_BYTES {
                bail!("{user} got {} bytes of {PAGE_BYTES} through {protocol}", page.bytes);
            }
            if user == "alice" {
                fetched.push(page);
            }
        }
    }

    step("a suspended user is out");
    vpn(house, &["users", "suspend", "bob", "--reason", "demo"], traceparent)?;
    let link =
        bob.iter().find(|link| link.protocol == Protocol::VlessReality).context("a link is missing")?;
    let client = XrayClient::start(&link.link).await.map_err(|error| anyhow!("{error:?}"))?;
    let refused = eventually("bob is refused", SOON, async || match client.fetch(&url, PAGE_WITHIN).await {
        Ok(page) => Err(format!("bob still gets {} bytes", page.bytes)),
        Err(error) => Ok(error),
    });
    say(&format!("bob through {}: {}", Protocol::VlessReality, refused.await));
    Ok(fetched)
}

async fn fetch(protocol: Protocol, link: &str, url: &str) -> anyhow::Result<Fetch> {
    let page = match protocol {
        Protocol::Wireguard => WireguardClient::connect(link).await.fetch(url, PAGE_WITHIN).await?,
        Protocol::VlessReality | Protocol::Shadowsocks2022 => {
            XrayClient::start(link)
                .await
                .map_err(|error| anyhow!("{error:?}"))?
                .fetch(url, PAGE_WITHIN)
                .await?
        }
    };
    Ok(Fetch { protocol, bytes: page.bytes, seconds: page.seconds })
}

async fn links(bus: &Bus, user: &str) -> anyhow::Result<Vec<ServerLink>> {
    let user: contract::UserName = user.parse()?;
    let links = eventually("the user has a link for each server", SOON, async || {
        let request = Link { user: user.clone(), server: None };
        match bus.call(request).await {
            Ok(links) if links.links.len() == Protocol::ALL.len() => Ok(links.links),
            Ok(links) => Err(format!("{} links", links.links.len())),
            Err(error) => Err(error.to_string()),
        }
    });
    Ok(links.await)
}

fn vpn(house: &House, args: &[&str], traceparent: &str) -> anyhow::Result<()> {
    show(&format!("vpn {}", args.join(" ")));
    let mut command = house.vpn(args.iter().copied());
    let output = said(command.env("TRACEPARENT", traceparent)).map_err(|error| anyhow!(error))?;
    for line in output.lines() {
        say(line);
    }
    Ok(())
}

fn server_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::VlessReality => "reality",
        Protocol::Shadowsocks2022 => "shadowsocks",
        Protocol::Wireguard => "wireguard",
    }
}

/// The spans, once every service has sent its own, and nothing that they hang on is missing.
fn whole(spans: &[Span]) -> Option<Vec<Span>> {
    let complete = SERVICES.iter().all(|name| spans.iter().any(|span| span.service == *name));
    let parent = |id: &String| spans.iter().any(|span| span.span_id == *id);
    let connected = spans.iter().all(|span| span.parent_id.as_ref().is_none_or(parent));
    (complete && connected).then(|| spans.to_vec())
}

fn by_service(spans: &[Span]) -> BTreeMap<String, Vec<&str>> {
    let mut services = BTreeMap::<String, Vec<&str>>::new();
    for span in spans {
        services.entry(span.service.clone()).or_default().push(&span.name);
    }
    services
}

/// Each name once, with how often it is there.
fn counted(names: &[&str]) -> String {
    let mut counts = Vec::<(&str, usize)>::new();
    for name in names {
        match counts.iter_mut().find(|(known, _)| known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    let word = |(name, count): (&str, usize)| match count {
        1 => name.to_owned(),
        _ => format!("{name} ×{count}"),
    };
    counts.into_iter().map(word).collect::<Vec<_>>().join(", ")
}
