//! The loss of a run as a picture: in characters for a terminal, and as SVG.

use std::fmt::Write as _;

/// Columns and lines of a plot in characters.
const COLUMNS: usize = 60;
const LINES: usize = 8;

/// Width and height of an SVG picture, and what is left for labels on each side.
const WIDTH: f32 = 720.0;
const HEIGHT: f32 = 320.0;
const MARGIN: f32 = 56.0;
/// The most points of an SVG line: more cannot be told apart.
const POINTS_MAX: usize = 2_000;

/// Values over equal steps, of which those that are not finite are left out: trainers that lie may say anything.
#[derive(Debug)]
pub(crate) struct Curve {
    /// The step and the value of each point, in order.
    points: Vec<(usize, f32)>,
    least: f32,
    most: f32,
}

impl Curve {
    /// A curve of `values`; nothing where none of them is finite.
    pub(crate) fn of(values: impl IntoIterator<Item = f32>) -> Option<Self> {
        let points = values.into_iter().enumerate();
        let points: Vec<_> = points.filter(|(_, value)| value.is_finite()).collect();
        let values = points.iter().map(|(_, value)| *value);
        let least = values.clone().fold(f32::INFINITY, f32::min);
        let most = values.fold(f32::NEG_INFINITY, f32::max);
        (!points.is_empty()).then_some(Self {
            points,
            least,
            most,
        })
    }

    /// How far below the highest value this one is, from 0 to 1.
    fn depth(&self, value: f32) -> f32 {
        // Halves, because the difference of two finite values may be none.
        let height = (self.most / 2.0 - self.least / 2.0).max(f32::MIN_POSITIVE);
        (self.most / 2.0 - value / 2.0) / height
    }

    /// Every so many points that at most `most` are left, the first and the last among them.
    fn thinned(&self, most: usize) -> impl Iterator<Item = (usize, f32)> {
        let count = self.points.len();
        let shown = most.min(count);
        (0..shown).map(move |place| self.points[place * (count - 1) / (shown - 1).max(1)])
    }

    /// Lines of characters, the highest value on top.
    pub(crate) fn lines(&self) -> Vec<String> {
        let last = (LINES - 1) as f32;
        let marked: Vec<usize> = (self.thinned(COLUMNS))
            .map(|(_, value)| (self.depth(value) * last).round() as usize)
            .collect();
        let line = |line: usize| {
            let part = line as f32 / last;
            let label = self.most * (1.0 - part) + self.least * part;
            let marks = marked
                .iter()
                .map(|mark| if *mark == line { '•' } else { ' ' });
            let marks: String = marks.collect();
            format!("{label:>7.3} │{marks}").trim_end().to_owned()
        };
        (0..LINES).map(line).collect()
    }

    /// A picture that stands for itself, with `title`, what the values are measured in, and what the steps are called.
    pub(crate) fn svg(&self, title: &str, unit: &str, steps: &str) -> String {
        let title = escaped(title);
        let last = self.points.last().map_or(0, |(step, _)| *step);
        let (wide, high) = (WIDTH - 2.0 * MARGIN, HEIGHT - 2.0 * MARGIN);
        let x = |step: usize| MARGIN + wide * step as f32 / last.max(1) as f32;
        let y = |value: f32| MARGIN + high * self.depth(value);
        let mut line = String::new();
        for (step, value) in self.thinned(POINTS_MAX) {
            let _ = write!(line, "{:.1},{:.1} ", x(step), y(value));
        }
        let line = line.trim_end();
        let ends = [self.points.first(), self.points.last()];
        let [first, end] = ends.map(|end| end.map_or(0.0, |(_, value)| *value));
        let (bottom, right) = (HEIGHT - MARGIN, WIDTH - MARGIN);
        let (most, least) = (self.most, self.least);
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title text" font-family="sans-serif" font-size="13">
<title id="title">{title}</title>
<desc id="text">From {first:.4} at the beginning to {end:.4} after {last} {steps}; at most {most:.4}, at least {least:.4} {unit}.</desc>
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
<text x="{MARGIN}" y="30" font-size="16">{title}</text>
<text x="{MARGIN}" y="{above}" fill="dimgray">{unit}</text>
<path d="M{MARGIN} {MARGIN}V{bottom}H{right}" fill="none" stroke="gray"/>
<text x="{label}" y="{top}" text-anchor="end">{most:.3}</text>
<text x="{label}" y="{bottom}" text-anchor="end">{least:.3}</text>
<text x="{MARGIN}" y="{below}">0</text>
<text x="{right}" y="{below}" text-anchor="end">{last} {steps}</text>
<polyline points="{line}" fill="none" stroke="darkorange" stroke-width="2" stroke-linejoin="round"/>
</svg>
"#,
            label = MARGIN - 6.0,
            above = MARGIN - 6.0,
            top = MARGIN + 5.0,
            below = bottom + 20.0,
        )
    }
}

/// Text as XML writes it. Control characters cannot stand in XML at all.
fn escaped(text: &str) -> String {
    let mut written = String::new();
    for character in text.chars() {
        match character {
            '&' => written.push_str("&amp;"),
            '<' => written.push_str("&lt;"),
            '>' => written.push_str("&gt;"),
            '"' => written.push_str("&quot;"),
            _ if character.is_control() => written.push(' '),
            _ => written.push(character),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_value_is_on_top_and_the_lowest_below() {
        let lines = Curve::of([3.0, 2.0, 1.0]).unwrap().lines();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines[0], "  3.000 │•");
        assert_eq!(lines[LINES - 1], "  1.000 │  •");
    }

    #[test]
    fn what_is_not_finite_is_left_out_and_nothing_breaks_on_the_rest() {
        assert!(Curve::of([f32::NAN, f32::INFINITY]).is_none());
        assert!(Curve::of([]).is_none());
        for values in [
            vec![1.0],
            vec![1.0, 1.0],
            vec![f32::MAX, f32::NAN, f32::MIN],
        ] {
            let curve = Curve::of(values.clone()).unwrap();
            assert_eq!(curve.lines().len(), LINES, "{values:?}");
            let picture = curve.svg("loss", "nats a token", "rounds");
            assert!(
                !picture.contains("NaN") && !picture.contains("inf"),
                "{picture}"
            );
        }
    }

    #[test]
    fn a_long_run_is_thinned_and_keeps_its_ends() {
        let curve = Curve::of((0..100_000).map(|step| 1.0 / (step + 1) as f32)).unwrap();
        let points: Vec<_> = curve.thinned(POINTS_MAX).collect();
        assert_eq!(points.len(), POINTS_MAX);
        assert_eq!((points[0].0, points[POINTS_MAX - 1].0), (0, 99_999));
    }

    #[test]
    fn a_name_with_markup_is_text_in_the_picture() {
        let picture = Curve::of([2.0, 1.0]).unwrap();
        let picture = picture.svg("<script>\u{1}&\"", "nats a token", "rounds");
        assert!(picture.contains("&lt;script&gt; &amp;&quot;"), "{picture}");
        assert!(!picture.contains("<script"), "{picture}");
    }
}
