//! Networks over images, whose pixels are positions: down and up again, and pyramids, against loops over rows and columns.

use crate::properties::compiled::{Compiled, agree, made_up};
use braid_runtime::session::{Inputs, Session, Values, Wanted};

/// An image: channels of each pixel, row by row.
#[derive(Clone)]
pub struct Image {
    high: usize,
    wide: usize,
    pixels: Vec<Vec<f64>>,
}

impl Image {
    fn at(&self, i: i64, j: i64) -> Option<&Vec<f64>> {
        let inside = (0..self.high as i64).contains(&i) && (0..self.wide as i64).contains(&j);
        inside.then(|| &self.pixels[i as usize * self.wide + j as usize])
    }

    fn map(&self, f: impl Fn(&Vec<f64>) -> Vec<f64>) -> Image {
        Image { pixels: self.pixels.iter().map(f).collect(), ..*self }
    }

    fn with(&self, other: &Image, f: impl Fn(&f64, &f64) -> f64) -> Image {
        let one = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| f(a, b)).collect();
        Image { pixels: self.pixels.iter().zip(&other.pixels).map(one).collect(), ..*self }
    }

    fn beside(&self, other: &Image) -> Image {
        let pairs = self.pixels.iter().zip(&other.pixels);
        Image { pixels: pairs.map(|(a, b)| [&a[..], b].concat()).collect(), ..*self }
    }
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// The parameters of a network.
struct Plain<'a>(&'a Compiled);

impl Plain<'_> {
    /// `w x` for a matrix `[out, d]`.
    fn product(&self, path: &str, x: &[f64]) -> Vec<f64> {
        self.0.numbers(path).chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    }

    /// `image_convolution`: zeros stand around the image.
    fn convolution(&self, path: &str, x: &Image, stride: usize, apart: bool) -> Image {
        let b = self.0.numbers(&format!("{path}.b"));
        let w = self.0.numbers(&format!("{path}.{}", if apart { "f" } else { "w" }));
        let (high, wide, d) = (x.high / stride, x.wide / stride, x.pixels[0].len());
        let pixel = |place: usize| {
            let (i, j) = ((place / wide * stride) as i64, (place % wide * stride) as i64);
            let one = |out: usize| {
                let mut sum = b[out];
                for (a, e) in (0..3).flat_map(|a| (0..3).map(move |e| (a, e))) {
                    let Some(near) = x.at(i + a as i64 - 1, j + e as i64 - 1) else { continue };
                    sum += match apart {
                        true => w[(out * 3 + a) * 3 + e] * near[out],
                        false => (0..d).map(|c| w[((out * d + c) * 3 + a) * 3 + e] * near[c]).sum::<f64>(),
                    };
                }
                sum
            };
            (0..b.len()).map(one).collect()
        };
        Image { high, wide, pixels: (0..high * wide).map(pixel).collect() }
    }

    /// `image_enlarged`: each pixel becomes four.
    fn enlarged(&self, path: &str, x: &Image) -> Image {
        let (w, b) = (self.0.numbers(&format!("{path}.w")), self.0.numbers(&format!("{path}.b")));
        let (high, wide, d) = (2 * x.high, 2 * x.wide, x.pixels[0].len());
        let pixel = |place: usize| {
            let (i, j) = (place / wide, place % wide);
            let from = &x.pixels[i / 2 * x.wide + j / 2];
            let weight = |out: usize, c: usize| w[((out * d + c) * 2 + i % 2) * 2 + j % 2];
            (0..b.len()).map(|out| b[out] + (0..d).map(|c| weight(out, c) * from[c]).sum::<f64>()).collect()
        };
        Image { high, wide, pixels: (0..high * wide).map(pixel).collect() }
    }

    /// A norm over channels of a pixel, or, as `image_norm`, of a channel over pixels.
    fn norm(&self, path: &str, x: &Image, over_pixels: bool) -> Image {
        let (w, b) = (self.0.numbers(&format!("{path}.w")), self.0.numbers(&format!("{path}.b")));
        let spread = |all: &[f64]| {
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            (mean, (all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64 + 1e-5).sqrt())
        };
        let of_channel = |c: usize| spread(&x.pixels.iter().map(|pixel| pixel[c]).collect::<Vec<_>>());
        let channels: Vec<(f64, f64)> = (0..w.len()).map(of_channel).collect();
        x.map(|pixel| {
            let whole = spread(pixel);
            let one = |c: usize| {
                let (mean, deviation) = if over_pixels { channels[c] } else { whole };
                (pixel[c] - mean) / deviation * w[c] + b[c]
            };
            (0..w.len()).map(one).collect()
        })
    }

    /// `image_unit`.
    fn unit(&self, path: &str, x: &Image, stride: usize) -> Image {
        let y = self.norm(&format!("{path}.norm"), &self.convolution(&format!("{path}.conv"), x, stride, false), true);
        y.map(|pixel| pixel.iter().map(|x| if *x > 0.0 { *x } else { 0.01 * x }).collect())
    }

    /// A selective state space along some rows of channels; parameters of way `way` of several.
    fn scan(&self, names: [&str; 6], rows: &[Vec<f64>], way: usize) -> Vec<Vec<f64>> {
        let [wr, wb, wc, wdt, dt_bias, a_log] = names.map(|name| self.0.numbers(name));
        let d = rows[0].len();
        let (n, rank) = (a_log.len() / dt_bias.len(), wdt.len() / dt_bias.len());
        let dot = |w: &[f64], row: usize, x: &[f64]| x.iter().zip(&w[row * x.len()..]).map(|(x, w)| w * x).sum::<f64>();
        let mut h = vec![0.0; d * n];
        let step = |u: &Vec<f64>| {
            let r: Vec<f64> = (0..rank).map(|i| dot(&wr, way * rank + i, u)).collect();
            let (b, c): (Vec<f64>, Vec<f64>) = (0..n).map(|i| (dot(&wb, way * n + i, u), dot(&wc, way * n + i, u))).unzip();
            let mut y = vec![0.0; d];
            for e in 0..d {
                let dt = (1.0 + (dot(&wdt, way * d + e, &r) + dt_bias[way * d + e]).exp()).ln();
                for i in 0..n {
                    let decay = (-dt * a_log[(way * d + e) * n + i].exp()).exp();
                    h[e * n + i] = decay * h[e * n + i] + dt * b[i] * u[e];
                    y[e] += c[i] * h[e * n + i];
                }
            }
            y
        };
        rows.iter().map(step).collect()
    }

    /// The library's `mamba` over the pixels of an image.
    fn mamba(&self, path: &str, x: &Image) -> Image {
        let at = |name: &str| format!("{path}.{name}");
        let all = |name: &str| x.pixels.iter().map(|pixel| self.product(&at(name), pixel)).collect::<Vec<_>>();
        let (ux, z) = (all("wx"), all("wz"));
        let (conv, bias, skip) = (self.0.numbers(&at("conv")), self.0.numbers(&at("conv_b")), self.0.numbers(&at("skip")));
        let tap = |t: usize, c: usize, w: usize| if t + w >= 3 { conv[c * 4 + w] * ux[t + w - 3][c] } else { 0.0 };
        let row = |t: usize| (0..bias.len()).map(|c| silu(bias[c] + (0..4).map(|w| tap(t, c, w)).sum::<f64>())).collect();
        let u: Vec<Vec<f64>> = (0..ux.len()).map(row).collect();
        let names = ["wr", "wb", "wc", "wdt", "dt_bias", "a_log"].map(at);
        let y = self.scan([0, 1, 2, 3, 4, 5].map(|n| &names[n][..]), &u, 0);
        let pixel = |t: usize| {
            let o: Vec<f64> = (0..skip.len()).map(|c| (y[t][c] + skip[c] * u[t][c]) * silu(z[t][c])).collect();
            self.product(&at("wo"), &o)
        };
        Image { pixels: (0..u.len()).map(pixel).collect(), ..*x }
    }

    /// The scans of `four_way_scan`, each over the pixels in its own order, added at the pixels.
    fn four_ways(&self, path: &str, x: &Image) -> Image {
        let cells = x.high * x.wide;
        let down: Vec<usize> = (0..cells).map(|q| q % x.high * x.wide + q / x.high).collect();
        let orders = [(0..cells).collect(), down.clone(), (0..cells).rev().collect(), down.into_iter().rev().collect::<Vec<_>>()];
        let names = ["wr", "wb", "wc", "wdt", "dt_bias", "a_log"].map(|name| format!("{path}.{name}"));
        let skip = self.0.numbers(&format!("{path}.skip"));
        let mut sum = x.map(|pixel| vec![0.0; pixel.len()]);
        for (way, order) in orders.iter().enumerate() {
            let rows: Vec<Vec<f64>> = order.iter().map(|place| x.pixels[*place].clone()).collect();
            let y = self.scan([0, 1, 2, 3, 4, 5].map(|n| &names[n][..]), &rows, way);
            for (place, (y, u)) in order.iter().zip(y.iter().zip(&rows)) {
                (0..u.len()).for_each(|c| sum.pixels[*place][c] += y[c] + skip[way * u.len() + c] * u[c]);
            }
        }
        sum
    }

    /// The library's `image_mamba`.
    fn image_mamba(&self, path: &str, x: &Image) -> Image {
        let through = |name: &str, x: &Image| x.map(|pixel| self.product(&format!("{path}.{name}"), pixel));
        let u =
            self.convolution(&format!("{path}.conv"), &through("wx", x), 1, true).map(|u| u.iter().map(|x| silu(*x)).collect());
        let y = self.norm(&format!("{path}.norm"), &self.four_ways(&format!("{path}.scan"), &u), false);
        through("wo", &y.with(&through("wz", x), |y, z| y * silu(*z)))
    }

    /// `unet_level`.
    fn level(&self, path: &str, x: &Image, depth: usize) -> Image {
        let x = self.unit(&format!("{path}.enter"), x, 1);
        if depth == 0 {
            return self.mamba(&format!("{path}.bottom"), &self.norm(&format!("{path}.norm"), &x, false));
        }
        let below = self.level(&format!("{path}.below"), &self.unit(&format!("{path}.down"), &x, 2), depth - 1);
        self.unit(&format!("{path}.leave"), &x.beside(&self.enlarged(&format!("{path}.up"), &below)), 1)
    }
}

/// A made-up image, and what a model gives for it.
fn shown(compiled: &Compiled, (high, wide, channels): (usize, usize, usize)) -> (Image, Session, Vec<f32>) {
    let numbers = made_up("pixels", &[high * wide * channels]);
    let mut session = compiled.session(2, 1);
    let mut inputs = Inputs::default();
    inputs.set(session.manifest(), "pixels", Values::Floats(&numbers)).unwrap();
    session.give(0, inputs).unwrap();
    let mut all = Vec::new();
    session.prefill(0, &vec![0; high * wide], Wanted::All, |_, rows| all.extend_from_slice(rows)).unwrap();
    let pixels = numbers.chunks(channels).map(|pixel| pixel.iter().map(|x| f64::from(*x)).collect()).collect();
    (Image { high, wide, pixels }, session, all)
}

#[test]
fn down_and_up_with_a_state_space_at_the_bottom() {
    let compiled = Compiled::new("use models.unet\nmodel tested = unet(depth: 2, d: 4, high: 8, wide: 12, n: 3, rank: 2)\n");
    let (image, _, found) = shown(&compiled, (8, 12, 3));
    let plain = Plain(&compiled);
    let y = plain.level("level", &plain.unit("stem", &image, 1), 2);
    let head = compiled.numbers("bh");
    let wanted: Vec<f64> = y
        .pixels
        .iter()
        .flat_map(|pixel| plain.product("head", pixel).into_iter().zip(&head).map(|(y, b)| y + b).collect::<Vec<_>>())
        .collect();
    agree("a U-Net", &found, &wanted, 2e-5).unwrap();
}

impl Plain<'_> {
    /// A stage (`scan_stage`) of the library's `pyramid`.
    fn stage(&self, path: &str, x: &Image) -> Image {
        let at = |name: &str| format!("{path}.{name}");
        let mixed = self.image_mamba(&at("mixer"), &self.norm(&at("norm1"), x, false));
        let x = x.with(&mixed, |a, b| a + b);
        let (bu, bd) = (self.0.numbers(&at("ffn.bu")), self.0.numbers(&at("ffn.bd")));
        let added = |x: Vec<f64>, b: &[f64]| x.iter().zip(b).map(|(x, b)| x + b).collect::<Vec<f64>>();
        let inner = self.norm(&at("norm2"), &x, false).map(|pixel| {
            let h = added(self.product(&at("ffn.wu"), pixel), &bu);
            added(self.product(&at("ffn.wd"), &h.into_iter().map(silu).collect::<Vec<f64>>()), &bd)
        });
        x.with(&inner, |a, b| a + b)
    }

    fn pixelwise(&self, path: &str, x: &Image) -> Image {
        let b = self.0.numbers(&format!("{path}.b"));
        x.map(|pixel| self.product(&format!("{path}.w"), pixel).iter().zip(&b).map(|(y, b)| y + b).collect())
    }
}

/// `image_repeated`.
fn repeated(x: &Image) -> Image {
    let (high, wide) = (2 * x.high, 2 * x.wide);
    let pixel = |place: usize| x.pixels[place / wide / 2 * x.wide + place % wide / 2].clone();
    Image { high, wide, pixels: (0..high * wide).map(pixel).collect() }
}

#[test]
fn a_pyramid_of_three_sizes() {
    let spec = "use models.pyramid\nmodel tested = pyramid(d: 4, high: 8, wide: 12, n: 3, rank: 2)\n";
    let compiled = Compiled::with_outputs(spec, made_up);
    let (image, session, found) = shown(&compiled, (8, 12, 3));
    let plain = Plain(&compiled);
    let sum = |a: &Image, b: &Image| a.with(b, |a, b| a + b);
    let x1 = plain.stage("stage1", &plain.convolution("stem", &image, 1, false));
    let x2 = plain.stage("stage2", &plain.convolution("down2", &x1, 2, false));
    let x3 = plain.stage("stage3", &plain.convolution("down3", &x2, 2, false));
    let p3 = plain.pixelwise("side3", &x3);
    let p2 = sum(&plain.pixelwise("side2", &x2), &repeated(&p3));
    let p1 = sum(&x1, &repeated(&p2));
    assert_eq!(session.manifest().outputs.iter().map(|output| &output.name[..]).collect::<Vec<_>>(), ["half", "quarter"]);
    for (at, (head, p)) in [("head1", &p1), ("head2", &p2), ("head3", &p3)].into_iter().enumerate() {
        let wanted = plain.convolution(head, p, 1, false).pixels;
        let rows = found.chunks(18).take(wanted.len());
        let own: Vec<f32> = rows.flat_map(|row| &row[6 * at..6 * at + 6]).copied().collect();
        agree(head, &own, &wanted.concat(), 2e-5).unwrap();
    }
}
