use std::{os::unix::fs::MetadataExt, path::Path};

use testkit::wait::eventually;

use crate::world::{SOON, World};

/// What a camera sees: `dark` by column and row, 4 pixels a module.
fn decoded(side: usize, dark: impl Fn(usize, usize) -> bool) -> String {
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(side * 4, side * 4, |x, y| {
        if dark(x / 4, y / 4) { 0 } else { 255 }
    });
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "one code");
    grids[0].decode().unwrap().1
}

/// The drawing on a dark terminal: two rows a line, lit where the code is light.
fn drawn(text: &str) -> String {
    let rows: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
    decoded(rows[0].len(), |x, y| {
        let upper = y % 2 == 0;
        let lit = rows.get(y / 2).and_then(|row| row.get(x)).is_some_and(|c| match c {
            '█' => true,
            '▀' => upper,
            '▄' => !upper,
            _ => false,
        });
        !lit
    })
}

fn png(path: &Path) -> String {
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut bytes).unwrap();
    let width = frame.width as usize;
    let line = frame.line_size;
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, width, |x, y| {
        if bytes[y * line + x / 8] >> (7 - x % 8) & 1 == 1 { 255 } else { 0 }
    });
    image.detect_grids()[0].decode().unwrap().1
}

/// The drawing is one path of squares: `M x y h w v h H x V y`.
fn svg(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let view = text.split_once("viewBox=\"0 0 ").unwrap().1.split_once(' ').unwrap().0;
    let side: usize = view.parse().unwrap();
    let mut dark = vec![vec![false; side]; side];
    let squares = text.split(" d=\"").nth(1).unwrap().split_once('"').unwrap().0;
    for square in squares.split('M').skip(1) {
        let numbers: Vec<usize> = square
            .split(|c: char| !c.is_ascii_digit())
            .filter(|s| !s.is_empty())
            .map(|s| s.parse().unwrap())
            .collect();
        let [x, y, width, height, ..] = numbers[..] else { panic!("{square}") };
        for row in &mut dark[y..y + height] {
            row[x..x + width].fill(true);
        }
    }
    let mut image =
        rqrr::PreparedImage::prepare_from_greyscale(side, side, |x, y| if dark[y][x] { 0 } else { 255 });
    image.detect_grids()[0].decode().unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_camera_reads_is_the_link() {
    let World { vpn, .. } = &World::start().await;
    vpn.ok("users create alice");
    vpn.run("servers create r --protocol vless-reality --dest example.org:443".split(' '));
    let link = vpn.ok("link alice r");
    let link = link.trim_end();
    assert!(link.starts_with("vless://"), "{link}");

    let shown = vpn.ok("link alice --qr");
    assert!(shown.ends_with(&format!("{link}\n")), "{shown}");
    let drawing = shown.split_once("vless://").unwrap().0;
    assert_eq!(drawn(drawing), link);
    assert_eq!(vpn.ok("users link alice r --qr"), shown, "the same by its other name");

    let ran = vpn.run("link alice r --png a.png --svg a.svg".split(' '));
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "the secret is in the files alone: {ran:?}");
    for (name, read) in [("a.png", png as fn(&Path) -> String), ("a.svg", svg)] {
        let path = vpn.home().join(name);
        assert_eq!(read(&path), link, "{name}");
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600, "{name}");
    }
    assert_eq!(vpn.refused("link alice r --png a.png", 1), "cli.file");
    vpn.ok("link alice r --png a.png --force");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_holds_one_wireguard_configuration() {
    let World { vpn, .. } = &World::start().await;
    vpn.ok("users create alice");
    assert_eq!(vpn.refused("link alice", 1), "fleet.server_not_found");
    vpn.ok("servers create ss --protocol shadowsocks-2022");
    assert_eq!(vpn.refused("link alice ss --conf a.conf", 2), "cli.usage");
    vpn.ok("servers create wg --protocol wireguard");
    eventually("both have links", SOON, async || vpn.run(["link", "alice"]).code == Some(0)).await;

    let both = vpn.ok("link alice");
    assert!(
        both.starts_with("# ss shadowsocks-2022\nss://") && both.contains("\n# wg wireguard\n"),
        "{both}"
    );
    let ran = vpn.run("link alice --conf a.conf --png a.png".split(' '));
    assert_eq!(ran.error_code(), "cli.usage", "{ran:?}");
    assert!(ran.err.contains("a.png holds one link, and there are 2: ss, wg"), "{ran:?}");
    assert!(!vpn.home().join("a.conf").exists(), "nothing is half done");

    let ran = vpn.run("link alice --conf a.conf".split(' '));
    assert_eq!(ran.err, "wrote a.conf for wg\n", "{ran:?}");
    let path = vpn.home().join("a.conf");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("PrivateKey") && text == vpn.json("link alice wg")["links"][0]["link"], "{text}");
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
    assert_eq!(vpn.refused("link alice --conf missing/a.conf", 1), "cli.file");
}
