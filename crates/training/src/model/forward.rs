//! The forward pass: embedding, then for each layer attention and the feed-forward block.

use crate::kernels::attention::{self, Attended, Columns, Source};
use crate::kernels::rows::{Turn, add, norm, swiglu, turn_heads};
use crate::model::buffers::{Blocks, Kept};
use crate::model::linear::{self, Direction, Linear, PackedLinear, Which};
use crate::model::{Buffers, Model, Parameters, Pass, ROWS};

impl Model {
    /// Leaves what the last layer gave in `buffers.last`, and in `buffers.kept` what the backward pass needs.
    pub(crate) fn forward(&self, parameters: Parameters, inputs: &[u32], buffers: &mut Buffers) {
        self.embed(parameters, inputs, &mut buffers.kept[0].x);
        for layer in 0..buffers.kept.len() {
            linear::pack_layer(
                self,
                layer,
                parameters,
                Direction::Forward,
                &mut buffers.packed,
            );
            let (kept, rest) = buffers.kept[layer..]
                .split_first_mut()
                .expect("the layer exists");
            let next = match rest.first_mut() {
                Some(next) => &mut next.x,
                None => &mut buffers.last,
            };
            let n = inputs.len();
            let pass = Pass {
                layer,
                parameters,
                n,
            };
            self.attention_inputs(pass, kept, &buffers.packed);
            self.attend(n, kept, &mut buffers.shared.by_head);
            let by_head = &buffers.shared.by_head;
            self.feed(pass, kept, by_head, &buffers.packed, next);
        }
    }

    /// Splits rows into tasks, so that threads have about the same work.
    pub(crate) fn row_blocks(&self, rows: usize) -> Blocks {
        let count = rows.div_ceil(ROWS).next_multiple_of(self.crew.threads());
        Blocks::new(rows, rows.div_ceil(count))
    }

    fn embed(&self, parameters: Parameters, inputs: &[u32], out: &mut [f32]) {
        let width = self.layout.architecture().width;
        let embedding = &parameters.model[self.layout.embedding.clone()];
        for (token, row) in inputs.iter().zip(out.chunks_exact_mut(width)) {
            let from = *token as usize * width;
            row.copy_from_slice(&embedding[from..from + width]);
        }
    }

    /// Norm, queries, keys and values, and the turn by position.
    fn attention_inputs(&self, pass: Pass, kept: &mut Kept, packed: &[PackedLinear; 4]) {
        let a = self.layout.architecture();
        let Pass {
            layer,
            parameters,
            n,
        } = pass;
        let gain = &parameters.model[self.layout.layers[layer].attention_norm.clone()];
        let linear = Linear::new(self, Which::Qkv);
        let blocks = self.row_blocks(n);
        let tasks: Vec<_> = blocks
            .of(&kept.x, a.width)
            .zip(blocks.of_mut(&mut kept.x_inverse, 1))
            .zip(blocks.of_mut(&mut kept.qkv, linear.outputs))
            .zip(blocks.of_mut(&mut kept.low[0], linear.low_width()))
            .enumerate()
            .collect();
        self.crew
            .each(tasks, |(index, (((x, inverse), qkv), low)), scratch| {
                let normed = &mut scratch[..x.len()];
                norm(self.path, x, gain, a.norm_epsilon, normed, inverse);
                linear::forward(self.path, &linear, &packed[0], normed, low, qkv);
                for (row, qkv) in qkv.chunks_exact_mut(linear.outputs).enumerate() {
                    let (cosines, sines) = self.rope.at((index * blocks.each + row) % self.tokens);
                    let turned = &mut qkv[..a.query_width() + a.key_width()];
                    turn_heads(self.path, turned, a.head, cosines, sines, Turn::Forward);
                }
            });
    }

    /// Where the columns of a key-value head's group start.
    pub(crate) fn group_columns(&self, group: usize) -> Columns {
        let a = self.layout.architecture();
        Columns {
            query: group * (a.query_heads / a.key_value_heads) * a.head,
            key: a.query_width() + group * a.head,
            value: a.query_width() + a.key_width() + group * a.head,
        }
    }

    fn attend(&self, n: usize, kept: &mut Kept, by_head: &mut [f32]) {
        let a = self.layout.architecture();
        let window = self.window();
        let heads = a.query_heads / a.key_value_heads;
        let of_group = heads * self.tokens;
        let rows_of_window = self.tokens * a.qkv_width();
        let tasks: Vec<_> = by_head[..n * a.query_width()]
            .chunks_exact_mut(of_group * a.head)
            .zip(kept.top[..n * a.query_heads].chunks_exact_mut(of_group))
            .zip(kept.inverse[..n * a.query_heads].chunks_exact_mut(of_group))
            .enumerate()
            .collect();
        let qkv = &kept.qkv;
        self.crew
            .each(tasks, |(index, ((out, top), inverse)), scratch| {
                let (window_index, group) = (index / a.key_value_heads, index % a.key_value_heads);
                let rows = &qkv[window_index * rows_of_window..(window_index + 1) * rows_of_window];
                let mut attended: Vec<_> = out
                    .chunks_exact_mut(self.tokens * a.head)
                    .zip(top.chunks_exact_mut(self.tokens))
                    .zip(inverse.chunks_exact_mut(self.tokens))
                    .map(|((out, top), inverse)| Attended { out, top, inverse })
                    .collect();
                let columns = self.group_columns(group);
                let source = Source { rows, columns };
                attention::forward(self.path, &window, &source, &mut attended, scratch);
            });
    }

    /// Copies a row's heads from where they lie one after the other for all tokens of a window.
    pub(crate) fn gather(&self, by_head: &[f32], heads: usize, row: usize, out: &mut [f32]) {
        let head = self.layout.architecture().head;
        let (window, token) = (row / self.tokens, row % self.tokens);
        for (index, out) in out.chunks_exact_mut(head).enumerate() {
            let from = ((window * heads + index) * self.tokens + token) * head;
            out.copy_from_slice(&by_head[from..from + head]);
        }
    }

    /// The output of attention, the sum with what came in, and the feed-forward block.
    fn feed(
        &self,
        pass: Pass,
        kept: &mut Kept,
        by_head: &[f32],
        packed: &[PackedLinear; 4],
        next: &mut [f32],
    ) {
        let a = self.layout.architecture();
        let Pass {
            layer,
            parameters,
            n,
        } = pass;
        let gain = &parameters.model[self.layout.layers[layer].hidden_norm.clone()];
        let [_, output, gate_up, down] = Which::ALL.map(|which| Linear::new(self, which));
        let blocks = self.row_blocks(n);
        let [_, low_output, low_gate_up, low_down] = &mut kept.low;
        let tasks: Vec<_> = blocks
            .of(&kept.x, a.width)
            .zip(blocks.of_mut(&mut kept.attended, output.inputs))
            .zip(blocks.of_mut(&mut kept.middle, a.width))
            .zip(blocks.of_mut(&mut kept.middle_inverse, 1))
            .zip(blocks.of_mut(&mut kept.gate_up, 2 * a.hidden))
            .zip(blocks.of_mut(next, a.width))
            .zip(blocks.of_mut(low_output, output.low_width()))
            .zip(blocks.of_mut(low_gate_up, gate_up.low_width()))
            .zip(blocks.of_mut(low_down, down.low_width()))
            .enumerate()
            .collect();
        self.crew.each(tasks, |(index, task), scratch| {
            let ((((task, next), low_output), low_gate_up), low_down) = task;
            let ((((x, attended), middle), inverse), gated) = task;
            let path = self.path;
            let (sum, scratch) = scratch.split_at_mut(x.len());
            let (normed, scratch) = scratch.split_at_mut(x.len());
            let hidden = &mut scratch[..x.len() / a.width * a.hidden];
            for (row, out) in attended.chunks_exact_mut(output.inputs).enumerate() {
                self.gather(by_head, a.query_heads, index * blocks.each + row, out);
            }
            linear::forward(path, &output, &packed[1], attended, low_output, sum);
            add(path, x, sum, middle);
            norm(path, middle, gain, a.norm_epsilon, normed, inverse);
            linear::forward(path, &gate_up, &packed[2], normed, low_gate_up, gated);
            swiglu(path, gated, a.hidden, hidden);
            linear::forward(path, &down, &packed[3], hidden, low_down, sum);
            add(path, middle, sum, next);
        });
    }
}
