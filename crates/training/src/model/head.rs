//! The last norm, the output head and the cross entropy, forward and backward, some rows of logits at a time.

use std::ops::Range;

use crate::kernels::matmul::{Grid, Product, multiply, packed_len};
use crate::kernels::rows::{cross_entropy, norm, norm_backward};
use crate::model::buffers::HeadRoom;
use crate::model::gradients::{Product as GradientProduct, accumulate};
use crate::model::linear::push_pack;
use crate::model::{Buffers, Model, Parameters, Passage};

impl Model {
    /// Computes losses into `buffers.head.losses` and the gradient of what the last layer gave into `shared.out`.
    ///
    /// `gradient` is the head's, where it is trained: its chains go on over these rows.
    pub(crate) fn head(
        &self,
        parameters: Parameters,
        passage: Passage,
        buffers: &mut Buffers,
        mut gradient: Option<&mut [f32]>,
    ) {
        let a = self.layout.architecture();
        let n = passage.targets.len();
        let room = &mut buffers.head;
        self.pack_head(parameters, room);
        self.last_norm(parameters, n, &buffers.last, room);
        for from in (0..n).step_by(room.rows) {
            let rows = from..n.min(from + room.rows);
            self.logits(passage, rows.clone(), room);
            if let Some(gradient) = gradient.as_deref_mut() {
                self.head_gradient(rows, room, gradient);
            }
        }
        let gain = &parameters.model[self.layout.final_norm.clone()];
        buffers.shared.middle[..n * a.width].fill(0.0);
        let blocks = self.row_blocks(n);
        let tasks: Vec<_> = blocks
            .of(&buffers.last, a.width)
            .zip(blocks.of(&room.inverse, 1))
            .zip(blocks.of(&room.normed_gradients, a.width))
            .zip(blocks.of(&buffers.shared.middle, a.width))
            .zip(blocks.of_mut(&mut buffers.shared.out, a.width))
            .collect();
        self.crew
            .each(tasks, |((((x, inverse), dy), zero), out), _| {
                norm_backward(self.path, x, gain, inverse, dy, zero, out);
            });
    }

    /// Returns the logits of every token that the forward pass read, row after row.
    pub(crate) fn all_logits(
        &self,
        parameters: Parameters,
        n: usize,
        buffers: &mut Buffers,
    ) -> Vec<f32> {
        let a = self.layout.architecture();
        let (d, v) = (a.width, a.vocabulary);
        let room = &mut buffers.head;
        self.pack_head(parameters, room);
        self.last_norm(parameters, n, &buffers.last, room);
        let mut logits = vec![0.0; n * v];
        let blocks = self.row_blocks(n);
        let tasks: Vec<_> = blocks
            .of(&room.normed, d)
            .zip(blocks.of_mut(&mut logits, v))
            .collect();
        let forward = &room.forward;
        self.crew.each(tasks, |(normed, logits), _| {
            let product = Product::new(Grid::rows(normed, d), forward, logits.len() / v, v, d);
            multiply(self.path, &product, logits, v);
        });
        logits
    }

    fn pack_head(&self, parameters: Parameters, room: &mut HeadRoom) {
        let a = self.layout.architecture();
        let (d, v) = (a.width, a.vocabulary);
        let head = &parameters.model[self.layout.head.clone()];
        let mut tasks = Vec::new();
        push_pack(
            &mut tasks,
            self.path,
            Grid::transposed(head, d),
            (d, v),
            &mut room.forward,
        );
        push_pack(
            &mut tasks,
            self.path,
            Grid::rows(head, d),
            (v, d),
            &mut room.backward,
        );
        self.crew.each(tasks, |task, _| task.run(self.path));
    }

    fn last_norm(&self, parameters: Parameters, n: usize, last: &[f32], room: &mut HeadRoom) {
        let a = self.layout.architecture();
        let gain = &parameters.model[self.layout.final_norm.clone()];
        let blocks = self.row_blocks(n);
        let tasks: Vec<_> = blocks
            .of(last, a.width)
            .zip(blocks.of_mut(&mut room.normed, a.width))
            .zip(blocks.of_mut(&mut room.inverse, 1))
            .collect();
        self.crew.each(tasks, |((x, normed), inverse), _| {
            norm(self.path, x, gain, a.norm_epsilon, normed, inverse);
        });
    }

    /// Logits, losses and gradients of the head's inputs, of some rows.
    fn logits(&self, passage: Passage, rows: Range<usize>, room: &mut HeadRoom) {
        let a = self.layout.architecture();
        let (d, v, len) = (a.width, a.vocabulary, rows.len());
        let blocks = self.row_blocks(len);
        let d_rows = rows.start * d..rows.end * d;
        let tasks: Vec<_> = blocks
            .of(&room.normed[d_rows.clone()], d)
            .zip(blocks.of_mut(&mut room.normed_gradients[d_rows], d))
            .zip(blocks.of_mut(&mut room.logits, v))
            .zip(blocks.of_mut(&mut room.losses[rows.clone()], 1))
            .zip(passage.targets[rows].chunks(blocks.each))
            .collect();
        let (forward, backward) = (&room.forward, &room.backward);
        self.crew.each(
            tasks,
            |((((normed, gradients), logits), losses), targets), _| {
                let m = targets.len();
                let product = Product::new(Grid::rows(normed, d), forward, m, v, d);
                multiply(self.path, &product, logits, v);
                let lines = logits.chunks_exact_mut(v).zip(losses).zip(targets);
                for ((line, loss), target) in lines {
                    *loss = cross_entropy(self.path, line, *target as usize, passage.weight);
                }
                let product = Product::new(Grid::rows(logits, v), backward, m, d, v);
                multiply(self.path, &product, gradients, d);
            },
        );
    }

    fn head_gradient(&self, rows: Range<usize>, room: &mut HeadRoom, gradient: &mut [f32]) {
        let a = self.layout.architecture();
        let (d, v, len) = (a.width, a.vocabulary, rows.len());
        let packed = &mut room.inputs_packed[..packed_len(self.path, len, d)];
        let source = Grid::rows(&room.normed[rows.start * d..rows.end * d], d);
        let mut tasks = Vec::new();
        push_pack(&mut tasks, self.path, source, (len, d), packed);
        self.crew.each(tasks, |task, _| task.run(self.path));
        let product = GradientProduct {
            left: &room.logits,
            left_row: v,
            right: packed,
            columns: d,
            out: gradient,
        };
        accumulate(self, len, vec![product], Vec::new());
    }
}
