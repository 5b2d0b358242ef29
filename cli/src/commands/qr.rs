//! QR codes: drawn in a terminal, as a PNG and as an SVG.

use contract::{Code, Error};
use qrcode::{Color, EcLevel, QrCode, render::svg};

/// Light modules around a code (ISO/IEC 18004 asks for four; readers of a screen do with two).
const QUIET: usize = 4;
const QUIET_TERMINAL: usize = 2;
/// Pixels of one module in a picture: a code of 60 modules has the width of a phone.
const PIXELS: usize = 8;

/// A square of modules.
pub(crate) struct Qr {
    code: QrCode,
}

impl Qr {
    /// The code of a text. It is read from a screen that nothing covers, so it carries the least redundancy and the
    /// largest modules.
    pub(crate) fn new(text: &str) -> Result<Self, Error> {
        let code = QrCode::with_error_correction_level(text, EcLevel::L);
        let code =
            code.map_err(|error| Error::new(Code::INTERNAL, format!("the link fits no QR code: {error}")))?;
        Ok(Self { code })
    }

    /// Two rows of modules to a line. Without colours the terminal is taken for a dark one.
    pub(crate) fn terminal(&self, colour: bool) -> String {
        let side = self.code.width() + 2 * QUIET_TERMINAL;
        let mut text = String::new();
        for row in (0..side).step_by(2) {
            let line: String = (0..side)
                .map(|column| {
                    let ink = |row| self.is_dark(column, row, QUIET_TERMINAL) == colour && row < side;
                    match (ink(row), ink(row + 1)) {
                        (true, true) => '█',
                        (true, false) => '▀',
                        (false, true) => '▄',
                        (false, false) => ' ',
                    }
                })
                .collect();
            // Black on white, whatever the terminal's own colours are.
            text += &if colour { format!("\u{1b}[30;107m{line}\u{1b}[0m\n") } else { format!("{line}\n") };
        }
        text
    }

    /// Black and white, one bit a pixel.
    pub(crate) fn png(&self) -> Result<Vec<u8>, Error> {
        let side = (self.code.width() + 2 * QUIET) * PIXELS;
        let mut rows = Vec::with_capacity(side * side.div_ceil(8));
        for y in 0..side {
            for byte in 0..side.div_ceil(8) {
                let bits = (0..8).map(|bit| byte * 8 + bit);
                rows.push(bits.fold(0, |bits, x| {
                    bits << 1 | u8::from(x < side && !self.is_dark(x / PIXELS, y / PIXELS, QUIET))
                }));
            }
        }
        let failed = |error: png::EncodingError| Error::new(Code::INTERNAL, format!("PNG: {error}"));
        let mut bytes = Vec::new();
        let width = u32::try_from(side).unwrap_or_default();
        let mut encoder = png::Encoder::new(&mut bytes, width, width);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::One);
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(&rows).and_then(|()| writer.finish()).map_err(failed)?;
        Ok(bytes)
    }

    /// A drawing of any size.
    pub(crate) fn svg(&self) -> String {
        self.code.render::<svg::Color<'_>>().build()
    }

    fn is_dark(&self, column: usize, row: usize, quiet: usize) -> bool {
        let width = self.code.width();
        match (column.checked_sub(quiet), row.checked_sub(quiet)) {
            (Some(x), Some(y)) if x < width && y < width => {
                self.code.to_colors().get(y * width + x) == Some(&Color::Dark)
            }
            _ => false,
        }
    }
}
