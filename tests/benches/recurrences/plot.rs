//! Curves over two logarithmic axes, as a picture.

use std::fmt::Write;

/// Seconds by tokens.
pub struct Curve {
    /// What it is called.
    pub name: String,
    /// Tokens, seconds.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 60.0;

/// The picture.
pub fn svg(curves: &[Curve]) -> String {
    let all = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let ends = |of: fn((f64, f64)) -> f64| all().map(of).fold((f64::INFINITY, 0.0f64), |(a, b), x| (a.min(x), b.max(x)));
    let (x, y) = (ends(|p| p.0), ends(|p| p.1));
    let place = |value: f64, (low, high): (f64, f64), size: f64| (value / low).log2() / (high / low).log2().max(1e-9) * size;
    let at = |(tokens, seconds): (f64, f64)| {
        let right = MARGIN + place(tokens, x, WIDTH - 3.5 * MARGIN);
        (right, HEIGHT - MARGIN - place(seconds, y, HEIGHT - 2.0 * MARGIN))
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect \
         width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (tokens, _) in curves.first().map_or(&[][..], |curve| &curve.points) {
        let (right, _) = at((*tokens, y.0));
        // Writing to a String cannot fail.
        let _ =
            writeln!(out, "<text x=\"{right:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{tokens}</text>", HEIGHT - MARGIN + 18.0);
    }
    for power in y.0.log10().ceil() as i32..=y.1.log10().floor() as i32 {
        let (_, down) = at((x.0, 10f64.powi(power)));
        let _ = writeln!(out, "<text x=\"{:.0}\" y=\"{down:.0}\" text-anchor=\"end\">10^{power} s</text>", MARGIN - 6.0);
        let _ = writeln!(out, "<path d=\"M{MARGIN} {down:.0}H{:.0}\" stroke=\"#ddd\"/>", WIDTH - 2.5 * MARGIN);
    }
    for (number, curve) in curves.iter().enumerate() {
        let colour = format!("hsl({}, 70%, 40%)", number * 360 / curves.len());
        let points: Vec<String> = curve.points.iter().map(|p| at(*p)).map(|(a, b)| format!("{a:.1},{b:.1}")).collect();
        let _ =
            writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>", points.join(" "));
        // Names stand in a list: the curves' ends lie close together.
        let (right, down) = (WIDTH - 2.4 * MARGIN, MARGIN + 18.0 * number as f64);
        let _ = writeln!(out, "<text x=\"{right:.0}\" y=\"{down:.0}\" fill=\"{colour}\">{}</text>", curve.name);
    }
    let _ = writeln!(out, "<text x=\"{:.0}\" y=\"{:.0}\">tokens of one sequence</text>\n</svg>", WIDTH / 3.0, HEIGHT - 14.0);
    out
}
