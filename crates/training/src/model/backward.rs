//! The backward pass: gradients of activations from the last layer to the first, and of weights in each.

use crate::kernels::attention::{self, Gradients, Kept as KeptRows, Outputs, Source};
use crate::kernels::matmul::{Grid, packed_len};
use crate::kernels::rows::{
    Turn, norm_again, norm_backward, settle_zeros, swiglu_backward, turn_heads,
};
use crate::layout::LayerSpans;
use crate::model::buffers::{Kept, Shared};
use crate::model::gradients::{Gain, Product, accumulate};
use crate::model::linear::{self, Direction, Linear, PackedLinear, Which, push_pack};
use crate::model::{Buffers, Model, Parameters, Pass, Passage};

/// Where gradients go: those of all weights, or those of an adapter over frozen ones.
pub(crate) enum Trained<'a> {
    Model(&'a mut [f32]),
    Adapter(&'a mut [f32]),
}

impl Model {
    /// Runs both passes; gradients go on from what they hold. The gradient of the embeddings' rows is left in
    /// `buffers.shared.out`.
    pub(crate) fn learn(
        &self,
        parameters: Parameters,
        passage: Passage,
        buffers: &mut Buffers,
        mut trained: Trained,
    ) {
        self.forward(parameters, passage.inputs, buffers);
        let n = passage.inputs.len();
        let head = match &mut trained {
            Trained::Model(gradient) => Some(&mut gradient[self.layout.head.clone()]),
            Trained::Adapter(_) => None,
        };
        self.head(parameters, passage, buffers, head);
        if let Trained::Model(gradient) = &mut trained {
            let gain = Gain {
                x: &buffers.last,
                inverse: &buffers.head.inverse,
                gradient: &buffers.head.normed_gradients,
                out: &mut gradient[self.layout.final_norm.clone()],
            };
            accumulate(self, n, Vec::new(), vec![gain]);
        }
        for layer in (0..buffers.kept.len()).rev() {
            let Buffers {
                kept,
                shared,
                packed,
                ..
            } = buffers;
            linear::pack_layer(self, layer, parameters, Direction::Backward, packed);
            let pass = Pass {
                layer,
                parameters,
                n,
            };
            self.feed_backward(pass, &mut kept[layer], packed, shared);
            self.attend_backward(n, &kept[layer], shared);
            self.inputs_backward(pass, &kept[layer], packed, shared);
            match &mut trained {
                Trained::Model(gradient) => {
                    self.weight_gradients(layer, n, &kept[layer], shared, gradient);
                }
                Trained::Adapter(gradient) => {
                    self.adapter_gradients(layer, n, &kept[layer], shared, gradient);
                }
            }
            std::mem::swap(&mut shared.out, &mut shared.into);
        }
    }

    /// From the layer's output to the gradient of what attention gave.
    fn feed_backward(
        &self,
        pass: Pass,
        kept: &mut Kept,
        packed: &[PackedLinear; 4],
        shared: &mut Shared,
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
        let (d, q, h) = (a.width, a.query_width(), a.hidden);
        let [_, low_output, low_gate_up, low_down] = &mut shared.low;
        let tasks: Vec<_> = blocks
            .of(&kept.middle, d)
            .zip(blocks.of(&kept.middle_inverse, 1))
            .zip(blocks.of(&shared.out, d))
            .zip(blocks.of_mut(&mut kept.gate_up, 2 * h))
            .zip(blocks.of_mut(&mut shared.hidden, h))
            .zip(blocks.of_mut(&mut shared.normed[1], d))
            .zip(blocks.of_mut(&mut shared.normed_gradients[1], d))
            .zip(blocks.of_mut(&mut shared.middle, d))
            .zip(blocks.of_mut(&mut shared.attended, q))
            .zip(blocks.of_mut(low_output, output.low_width()))
            .zip(blocks.of_mut(low_gate_up, gate_up.low_width()))
            .zip(blocks.of_mut(low_down, down.low_width()))
            .collect();
        self.crew.each(tasks, |task, _| {
            let (((task, low_output), low_gate_up), low_down) = task;
            let ((((task, normed), normed_gradient), middle_gradient), attended_gradient) = task;
            let ((((middle, inverse), dy), gated), hidden) = task;
            let path = self.path;
            linear::backward(path, &down, &packed[3], dy, low_down, hidden);
            swiglu_backward(path, gated, h, hidden);
            linear::backward(
                path,
                &gate_up,
                &packed[2],
                gated,
                low_gate_up,
                normed_gradient,
            );
            norm_again(path, middle, gain, inverse, normed);
            norm_backward(
                path,
                middle,
                gain,
                inverse,
                normed_gradient,
                dy,
                middle_gradient,
            );
            linear::backward(
                path,
                &output,
                &packed[1],
                middle_gradient,
                low_output,
                attended_gradient,
            );
        });
    }

    /// Gradients of queries, keys and values as they were after the turn, head after head.
    fn attend_backward(&self, n: usize, kept: &Kept, shared: &mut Shared) {
        let a = self.layout.architecture();
        let (window, tokens) = (self.window(), self.tokens);
        let heads = a.query_heads / a.key_value_heads;
        let (queries, rest) = shared.by_head.split_at_mut(n * a.query_width());
        let (keys, values) = rest.split_at_mut(n * a.key_width());
        let tasks: Vec<_> = queries
            .chunks_exact_mut(heads * tokens * a.head)
            .zip(keys.chunks_exact_mut(tokens * a.head))
            .zip(values.chunks_exact_mut(tokens * a.head))
            .enumerate()
            .collect();
        let attended_gradient = &shared.attended;
        self.crew
            .each(tasks, |(index, ((queries, keys), values)), scratch| {
                let (at, group) = (index / a.key_value_heads, index % a.key_value_heads);
                let of_window = |width: usize| at * tokens * width..(at + 1) * tokens * width;
                let first = index * heads * tokens;
                let kept_rows: Vec<_> = (0..heads)
                    .map(|head| first + head * tokens..first + (head + 1) * tokens)
                    .map(|range| KeptRows {
                        top: &kept.top[range.clone()],
                        inverse: &kept.inverse[range],
                    })
                    .collect();
                let outputs = Outputs {
                    attended: &kept.attended[of_window(a.query_width())],
                    gradients: &attended_gradient[of_window(a.query_width())],
                    row_step: a.query_width(),
                    first: group * heads * a.head,
                };
                let mut gradients = Gradients {
                    queries: queries.chunks_exact_mut(tokens * a.head).collect(),
                    keys,
                    values,
                };
                let rows = &kept.qkv[of_window(a.qkv_width())];
                let columns = self.group_columns(group);
                let source = Source { rows, columns };
                attention::backward(
                    self.path,
                    &window,
                    &source,
                    &outputs,
                    &kept_rows,
                    &mut gradients,
                    scratch,
                );
            });
    }

    /// From the gradients of queries, keys and values to that of the layer's input.
    fn inputs_backward(
        &self,
        pass: Pass,
        kept: &Kept,
        packed: &[PackedLinear; 4],
        shared: &mut Shared,
    ) {
        let a = self.layout.architecture();
        let Pass {
            layer,
            parameters,
            n,
        } = pass;
        let gain = &parameters.model[self.layout.layers[layer].attention_norm.clone()];
        let linear = Linear::new(self, Which::Qkv);
        let blocks = self.row_blocks(n);
        let (d, q, kv, qkv) = (a.width, a.query_width(), a.key_width(), a.qkv_width());
        let tasks: Vec<_> = blocks
            .of(&kept.x, d)
            .zip(blocks.of(&kept.x_inverse, 1))
            .zip(blocks.of(&shared.middle, d))
            .zip(blocks.of_mut(&mut shared.qkv, qkv))
            .zip(blocks.of_mut(&mut shared.normed[0], d))
            .zip(blocks.of_mut(&mut shared.normed_gradients[0], d))
            .zip(blocks.of_mut(&mut shared.into, d))
            .zip(blocks.of_mut(&mut shared.low[0], linear.low_width()))
            .enumerate()
            .collect();
        let by_head = &shared.by_head[..n * qkv];
        self.crew.each(tasks, |(index, task), _| {
            let ((((task, normed), normed_gradient), into), low) = task;
            let (((x, inverse), middle_gradient), rows) = task;
            let path = self.path;
            for (row, out) in rows.chunks_exact_mut(qkv).enumerate() {
                let row = index * blocks.each + row;
                self.gather(&by_head[..n * q], a.query_heads, row, &mut out[..q]);
                let (keys, values) = out[q..].split_at_mut(kv);
                self.gather(&by_head[n * q..], a.key_value_heads, row, keys);
                self.gather(&by_head[n * (q + kv)..], a.key_value_heads, row, values);
                settle_zeros(path, out);
                let (cosines, sines) = self.rope.at(row % self.tokens);
                turn_heads(path, &mut out[..q + kv], a.head, cosines, sines, Turn::Back);
            }
            linear::backward(path, &linear, &packed[0], rows, low, normed_gradient);
            norm_again(path, x, gain, inverse, normed);
            norm_backward(
                path,
                x,
                gain,
                inverse,
                normed_gradient,
                middle_gradient,
                into,
            );
        });
    }

    /// Packs the inputs of the four products.
    fn pack_inputs(&self, n: usize, kept: &Kept, shared: &mut Shared) {
        let path = self.path;
        let sources = [
            &shared.normed[0],
            &kept.attended,
            &shared.normed[1],
            &shared.hidden,
        ];
        let mut tasks = Vec::new();
        let packed = shared.inputs_packed.iter_mut().zip(sources);
        for ((packed, source), which) in packed.zip(Which::ALL) {
            let inputs = Linear::new(self, which).inputs;
            let source = Grid::rows(&source[..n * inputs], inputs);
            push_pack(&mut tasks, path, source, (n, inputs), packed);
        }
        self.crew.each(tasks, |task, _| task.run(path));
    }

    fn weight_gradients(
        &self,
        layer: usize,
        n: usize,
        kept: &Kept,
        shared: &mut Shared,
        gradient: &mut [f32],
    ) {
        self.pack_inputs(n, kept, shared);
        let spans = &self.layout.layers[layer];
        let parts = split(spans, gradient);
        let lefts = [&shared.qkv, &shared.middle, &kept.gate_up, &shared.out];
        let products = Which::ALL
            .into_iter()
            .zip(parts.matrices)
            .zip(lefts)
            .zip(&shared.inputs_packed);
        let products = products.map(|(((which, out), left), right)| {
            let linear = Linear::new(self, which);
            Product {
                left,
                left_row: linear.outputs,
                right,
                columns: linear.inputs,
                out,
            }
        });
        let gains = vec![
            Gain {
                x: &kept.x,
                inverse: &kept.x_inverse,
                gradient: &shared.normed_gradients[0],
                out: parts.attention_norm,
            },
            Gain {
                x: &kept.middle,
                inverse: &kept.middle_inverse,
                gradient: &shared.normed_gradients[1],
                out: parts.hidden_norm,
            },
        ];
        accumulate(self, n, products.collect(), gains);
    }

    fn adapter_gradients(
        &self,
        layer: usize,
        n: usize,
        kept: &Kept,
        shared: &mut Shared,
        gradient: &mut [f32],
    ) {
        self.pack_inputs(n, kept, shared);
        self.pack_low(n, kept, shared);
        let adapter = self.adapter.as_ref().expect("an adapter is trained");
        let spans = &adapter.layers[layer];
        let Some(first) = spans.first() else { return };
        let mut rest = &mut gradient[first.a.start..];
        let lefts = [&shared.qkv, &shared.middle, &kept.gate_up, &shared.out];
        let mut products = Vec::new();
        for (index, which) in Which::ALL.into_iter().enumerate() {
            let linear = Linear::new(self, which);
            let one = packed_len(self.path, n, linear.rank);
            for (place, part) in linear.parts.iter().enumerate() {
                let spans = &spans[part.index];
                let (a, tail) = std::mem::take(&mut rest).split_at_mut(spans.a.len());
                let (b, tail) = tail.split_at_mut(spans.b.len());
                rest = tail;
                products.push(Product {
                    left: &shared.low[index][place * linear.rank..],
                    left_row: linear.low_width(),
                    right: &shared.inputs_packed[index],
                    columns: linear.inputs,
                    out: a,
                });
                products.push(Product {
                    left: &lefts[index][part.first..],
                    left_row: linear.outputs,
                    right: &shared.low_packed[index][place * one..(place + 1) * one],
                    columns: linear.rank,
                    out: b,
                });
            }
        }
        accumulate(self, n, products, Vec::new());
    }

    /// Packs what the adapters' first matrices gave.
    fn pack_low(&self, n: usize, kept: &Kept, shared: &mut Shared) {
        let path = self.path;
        let mut tasks = Vec::new();
        for (index, packed) in shared.low_packed.iter_mut().enumerate() {
            let linear = Linear::new(self, Which::ALL[index]);
            if linear.parts.is_empty() {
                continue;
            }
            let one = packed_len(path, n, linear.rank);
            for (place, packed) in packed.chunks_mut(one).take(linear.parts.len()).enumerate() {
                let low = Grid::rows(&kept.low[index][place * linear.rank..], linear.low_width());
                push_pack(&mut tasks, path, low, (n, linear.rank), packed);
            }
        }
        self.crew.each(tasks, |task, _| task.run(path));
    }
}

/// The gradients of a layer, apart from each other.
struct LayerGradients<'a> {
    attention_norm: &'a mut [f32],
    hidden_norm: &'a mut [f32],
    matrices: [&'a mut [f32]; 4],
}

fn split<'a>(spans: &LayerSpans, gradient: &'a mut [f32]) -> LayerGradients<'a> {
    let rest = &mut gradient[spans.attention_norm.start..spans.down.end];
    let (attention_norm, rest) = rest.split_at_mut(spans.attention_norm.len());
    let (qkv, rest) = rest.split_at_mut(spans.qkv.len());
    let (output, rest) = rest.split_at_mut(spans.output.len());
    let (hidden_norm, rest) = rest.split_at_mut(spans.hidden_norm.len());
    let (gate_up, down) = rest.split_at_mut(spans.gate_up.len());
    LayerGradients {
        attention_norm,
        hidden_norm,
        matrices: [qkv, output, gate_up, down],
    }
}
