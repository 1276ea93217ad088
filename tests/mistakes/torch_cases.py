"""Mistakes in PyTorch: small networks, a training loop as people write it, and one thing wrong in it.

Imports nothing of the library.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mistakes.cases import Given, case
from mistakes.data import Data, draw, noise_entropy, tiles

torch.set_num_threads(1)  # networks of this size are slower on two


# --- Networks ----------------------------------------------------------------------------------------------------


def dense(size: int, classes: int, width: int = 32) -> nn.Module:
    return nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, classes))


class Recurrent(nn.Module):
    """LSTM, GRU or RNN and a linear head."""

    def __init__(self, size: int, classes: int, width: int = 24, kind: Any = nn.LSTM, **options: Any):
        super().__init__()
        self.core = kind(size, width, **({"batch_first": True} | options))
        self.head = nn.Linear(width * (2 if options.get("bidirectional") else 1), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.core(x)[0])


class Convolution(nn.Module):
    """Two convolutions over steps; causal: padded at the front alone."""

    def __init__(self, size: int, classes: int, width: int = 24, kernel: int = 3, causal: bool = False):
        super().__init__()
        self.pads = (kernel - 1, 0) if causal else ((kernel - 1) // 2, kernel // 2)
        self.first, self.second = nn.Conv1d(size, width, kernel), nn.Conv1d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(F.relu(self.first(F.pad(x.transpose(1, 2), self.pads)))).transpose(1, 2)


class Transformer(nn.Module):
    """One layer of attention; steps = 0: without positions."""

    def __init__(self, size: int, classes: int, steps: int = 0, causal: bool = False, batch_first: bool = True):
        super().__init__()
        self.embed = nn.Linear(size, 32)
        self.place = nn.Parameter(0.5 * torch.randn(steps, 32)) if steps else None
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=batch_first)
        self.head = nn.Linear(32, classes)
        self.causal = causal

    def forward(self, x: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        h = self.embed(x)
        if self.place is not None:
            h = h + self.place[: x.shape[1]]
        unseen = torch.triu(torch.ones(x.shape[1], x.shape[1]), 1).bool() if self.causal else None
        return self.head(self.layer(h, src_mask=unseen, src_key_padding_mask=padding))


# --- Training ----------------------------------------------------------------------------------------------------


def cross_entropy(z: torch.Tensor, y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(z[mask], y[mask])


def loop(
    net: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    mask: np.ndarray,
    loss: Callable[..., torch.Tensor] = cross_entropy,
    *,
    optimiser: torch.optim.Optimizer | None = None,
    epochs: int = 15,
    batch: int = 50,
    lr: float = 1e-2,
    steps: bool = True,
    clears: bool = True,
    feeds: Callable[..., tuple[torch.Tensor, ...]] = lambda x, y: (x,),
) -> list[float]:
    """The usual loop; its losses by epoch.  steps, clears: whether it calls optimizer.step and zero_grad."""
    optimiser = optimiser or torch.optim.Adam(net.parameters(), lr)
    x, y, mask = (
        torch.as_tensor(np.asarray(x, np.float32)),
        torch.as_tensor(np.asarray(y)).long(),
        torch.as_tensor(mask),
    )
    losses = []
    net.train()
    for _ in range(epochs):
        order, total = torch.randperm(len(x)), []
        for at in order.split(batch):
            if not mask[at].any():
                continue
            if clears:
                optimiser.zero_grad()
            value = loss(net(*feeds(x[at], y[at])), y[at], mask[at])
            value.backward()
            if steps:
                optimiser.step()
            total.append(value.item())
        losses.append(float(np.mean(total)))
    return losses


def reader(net: nn.Module, read: Callable[[torch.Tensor], torch.Tensor] = lambda z: z, train: bool = False) -> Any:
    """predict: NumPy in and out."""

    def predict(x: np.ndarray) -> np.ndarray:
        net.train(train)
        with torch.no_grad():
            return read(net(torch.as_tensor(np.asarray(x, np.float32)))).numpy()

    return predict


def fits(data: Data, make: Callable[[], nn.Module], seed: int, reach: float = 0.0, **how: Any) -> Given:
    """The training as it is handed over.  read: what predict does with the outputs."""
    read = how.pop("read", lambda z: z)

    def fit(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> Any:
        torch.manual_seed(seed)
        net = make()
        losses = loop(net, x, y, mask, **how)
        return reader(net, read), losses

    return Given(data.given | {"fit": fit}, data.test, reach)


def trained(data: Data, net: nn.Module, **how: Any) -> nn.Module:
    known = {"mask": np.ones(data.given["y"].shape, bool)} | data.given
    loop(net, known["x"], known["y"], known["mask"], **how)
    return net


def predicts(data: Data, predict: Any, reach: float = 0.0, **known: Any) -> Given:
    return Given(data.given | {"predict": predict} | known, data.test, reach)


# --- The training does not train ---------------------------------------------------------------------------------


@case("does_not_train", "fit", "torch")
def no_step(seed, wrong):
    """Loss does not change at all: optimizer.step() is missing."""
    d = draw("own", seed, 1200, 4, 6, 3)
    return fits(d, lambda: dense(6, 3), seed, steps=not wrong)


@case("does_not_train", "fit", "torch")
def parameters_of_another(seed, wrong):
    """The optimizer was made before the model was made anew."""
    d = draw("latch", seed, 1500, 6, 5, 3)

    def fit(x, y, mask):
        torch.manual_seed(seed)
        net, old = Recurrent(5, 3), Recurrent(5, 3)
        optimiser = torch.optim.Adam((old if wrong else net).parameters(), 1e-2)
        losses = loop(net, x, y, mask, optimiser=optimiser)
        return reader(net), losses

    return Given(d.given | {"fit": fit}, d.test)


@case("does_not_train", "fit", "torch")
def layers_in_a_list(seed, wrong):
    """The layers stand in a Python list, where model.parameters() does not find them."""
    d = draw("own", seed, 1500, 5, 9, 3)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [nn.Linear(9, 4), nn.Linear(4, 4), nn.Linear(4, 4)]
            self.layers = layers if wrong else nn.ModuleList(layers)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.head(x)

    return fits(d, Net, seed)


@case("does_not_train", "fit", "torch")
def detached_outputs(seed, wrong):
    """'element 0 does not require grad', cured with requires_grad_() on detached outputs."""
    d = draw("own", seed, 1600, 5, 8, 2)

    def loss(z, y, mask):
        return cross_entropy(z.detach().requires_grad_() if wrong else z, y, mask)

    return fits(d, lambda: dense(8, 2), seed, loss=loss)


@case("does_not_train", "fit", "torch")
def frozen_body_zero_head(seed, wrong):
    """requires_grad = False on all parameters but the bias of the head, for 'transfer learning'."""
    d = draw("held1", seed, 1000, 5, 7, 2)

    def make():
        net = Recurrent(7, 2)
        for name, parameter in net.named_parameters():
            parameter.requires_grad = not wrong or name == "head.bias"
        return net

    return fits(d, make, seed)


@case("does_not_train", "fit", "torch", also=("learning_rate_high", "exploding_gradient"))
def never_cleared(seed, wrong):
    """No zero_grad(): gradients add up over the whole training.  (With Adam, or without momentum, most of the
    tasks here are learnt all the same.)"""
    d = draw("held1", seed, 1400, 5, 10, 3)

    def fit(x, y, mask):
        torch.manual_seed(seed)
        net = Recurrent(10, 3)
        optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        losses = loop(net, x, y, mask, optimiser=optimiser, clears=not wrong, epochs=20)
        return reader(net), losses

    return Given(d.given | {"fit": fit}, d.test)


@case("learning_rate_high", "fit", "torch")
def adam_at_one(seed, wrong):
    """Adam(lr=1): the loss jumps about and ends at the prior or above."""
    d = draw("held1", seed, 1500, 5, 6, 3)
    return fits(d, lambda: Recurrent(6, 3, kind=nn.RNN), seed, lr=1.0 if wrong else 5e-3)


@case("learning_rate_high", "fit", "torch")
def sgd_at_fifty(seed, wrong):
    """SGD with the rate of another paper: first 0.9, then thousands."""
    d = draw("own", seed, 1800, 4, 12, 4)

    def fit(x, y, mask):
        torch.manual_seed(seed)
        net = dense(12, 4)
        optimiser = torch.optim.SGD(net.parameters(), 50.0 if wrong else 0.3)
        losses = loop(net, x, y, mask, optimiser=optimiser, epochs=25)
        return reader(net), losses

    return Given(d.given | {"fit": fit}, d.test)


@case("learning_rate_low", "fit", "torch")
def adam_at_1e_7(seed, wrong):
    """lr=1e-7 from a fine-tuning script: the loss falls in the fourth digit."""
    d = draw("own", seed, 1500, 6, 5, 3)
    return fits(d, lambda: dense(5, 3), seed, lr=1e-7 if wrong else 1e-2)


@case("learning_rate_low", "fit", "torch")
def two_steps_in_all(seed, wrong):
    """One epoch with a batch as large as the data: two updates."""
    d = draw("latch", seed, 1600, 5, 6, 2)
    how = {"epochs": 1, "batch": 1000} if wrong else {"epochs": 20, "batch": 50}
    return fits(d, lambda: Recurrent(6, 2), seed, **how)


@case("learning_rate_low", "fit", "torch")
def scheduler_in_the_inner_loop(seed, wrong):
    """scheduler.step() after every batch, its step_size meant in epochs: a tenth of the rate every 8 updates."""
    d = draw("held1", seed, 1500, 4, 6, 2)

    def fit(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> Any:
        torch.manual_seed(seed)
        net = Recurrent(6, 2)
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 8 if wrong else 8 * -(-len(x) // 50))
        optimiser.register_step_post_hook(lambda *_: scheduler.step())
        losses = loop(net, x, y, mask, optimiser=optimiser)
        return reader(net), losses

    return Given(d.given | {"fit": fit}, d.test)


@case("stuck_at_prior", "fit", "torch")
def all_weights_zero(seed, wrong):
    """Weights initialised to 0 'to be neutral': only the last bias ever moves."""
    d = draw("own", seed, 1500, 4, 7, 2, prior=[0.7, 0.3])

    def make():
        net = dense(7, 2)
        for parameter in net.parameters() if wrong else []:
            nn.init.zeros_(parameter)
        return net

    return fits(d, make, seed)


@case("stuck_at_prior", "fit", "torch")
def decay_of_three(seed, wrong):
    """weight_decay=3, read as 1e-3: weights are held at zero."""
    d = draw("held1", seed, 1400, 6, 6, 3)

    def fit(x, y, mask):
        torch.manual_seed(seed)
        net = Recurrent(6, 3, kind=nn.GRU)
        optimiser = torch.optim.Adam(net.parameters(), 1e-2, weight_decay=3.0 if wrong else 0.0)
        losses = loop(net, x, y, mask, optimiser=optimiser)
        return reader(net), losses

    return Given(d.given | {"fit": fit}, d.test)


@case("input_scale", "fit", "torch")
def raw_prices(seed, wrong):
    """Prices of some ten thousand go into an LSTM as they are."""
    d = draw("latch", seed, 1500, 6, 5, 2)
    d = d._replace(x=tiles(d.x, 900, 20_000))

    def fit(x, y, mask):
        torch.manual_seed(seed)
        mean, deviation = (0.0, 1.0) if wrong else (x[mask].mean(0), x[mask].std(0) + 1e-6)
        net = Recurrent(5, 2)
        losses = loop(net, (x - mean) / deviation, y, mask)
        inner = reader(net)
        return lambda x: inner((x - mean) / deviation), losses

    return Given(d.given | {"fit": fit}, d.test)


@case("input_scale", "fit", "torch")
def tiny_units(seed, wrong):
    """Amplitudes in volts where microvolts were meant: every input is below 1e-5."""
    d = draw("own", seed, 1700, 4, 9, 3)
    d = d._replace(x=tiles(d.x, 3e-6, 0))

    def fit(x, y, mask):
        torch.manual_seed(seed)
        scale = 1.0 if wrong else float(x[mask].std())
        net = dense(9, 3)
        losses = loop(net, x / scale, y, mask)
        inner = reader(net)
        return lambda x: inner(x / scale), losses

    return Given(d.given | {"fit": fit}, d.test)


@case("exploding_gradient", "fit", "torch")
def linear_recurrence(seed, wrong):
    """An RNN with relu and recurrent weights drawn from N(0, 1): nan after a few batches, no clipping."""
    d = draw("held1", seed, 1200, 16, 4, 2)

    def make():
        net = Recurrent(4, 2, kind=nn.RNN, nonlinearity="relu", width=32)
        if wrong:
            nn.init.normal_(net.core.weight_hh_l0)
        else:
            nn.init.orthogonal_(net.core.weight_hh_l0, 0.7)
        return net

    return fits(d, make, seed, lr=3e-3)


# --- The loss is another than was meant --------------------------------------------------------------------------


@case("softmax_twice", "fit", "torch", also=("probabilities_as_logits",))
def softmax_before_cross_entropy(seed, wrong):
    """nn.Softmax as last layer and nn.CrossEntropyLoss: stops at 0.55, three classes.  (Either name says it.)"""
    d = draw("own", seed, 1500, 5, 8, 3)
    return fits(d, lambda: nn.Sequential(dense(8, 3), nn.Softmax(-1)) if wrong else dense(8, 3), seed)


@case("softmax_twice", "fit", "torch", also=("probabilities_as_logits",))
def softmax_in_forward(seed, wrong):
    """F.softmax in the forward of an LSTM tagger, and cross-entropy on top."""
    d = draw("latch", seed, 1300, 7, 6, 4)

    def make():
        net = Recurrent(6, 4)
        return nn.Sequential(net, nn.Softmax(-1)) if wrong else net

    return fits(d, make, seed, epochs=20)


@case("probabilities_as_logits", "fit", "torch", also=("softmax_twice",))
def sigmoid_before_with_logits(seed, wrong):
    """Sigmoid as last layer and BCEWithLogitsLoss: never below 0.31.  (A squashing applied twice, either way.)"""
    d = draw("own", seed, 1500, 6, 5, 2)

    def make():
        return nn.Sequential(dense(5, 1), nn.Sigmoid()) if wrong else dense(5, 1)

    def loss(z, y, mask):
        return F.binary_cross_entropy_with_logits(z[..., 0][mask], y[mask].float())

    return fits(d, make, seed, loss=loss)


@case("single_unit_softmax", "fit", "torch")
def softmax_of_one(seed, wrong):
    """Linear(h, 1) and softmax: the output is always 1."""
    d = draw("own", seed, 1200, 5, 6, 2)

    def make():
        return nn.Sequential(dense(6, 1), nn.Softmax(-1) if wrong else nn.Sigmoid())

    def loss(p, y, mask):
        return F.binary_cross_entropy(p[..., 0][mask], y[mask].float())

    return fits(d, make, seed, loss=loss)


@case("softmax_axis", "fit", "torch")
def softmax_dim_1(seed, wrong):
    """softmax(dim=1) on (batch, steps, classes), copied from a model without steps."""
    d = draw("held1", seed, 1400, 6, 7, 3)

    def loss(p, y, mask):
        return F.nll_loss(torch.log(p[mask] + 1e-9), y[mask])

    return fits(d, lambda: nn.Sequential(Recurrent(7, 3), nn.Softmax(1 if wrong else 2)), seed, loss=loss)


@case("wrong_loss", "fit", "torch")
def broadcast_targets(seed, wrong):
    """Output (n, 1) against targets (n,) in a loss of one's own: every output against every target."""
    d = draw("own", seed, 1000, 4, 6, 2)

    def loss(z, y, mask):
        p, target = torch.sigmoid(z[mask]).clip(1e-6, 1 - 1e-6), y[mask].float()
        target = target if wrong else target[:, None]
        return -(target * torch.log(p) + (1 - target) * torch.log(1 - p)).mean()

    return fits(d, lambda: dense(6, 1), seed, loss=loss)


@case("wrong_loss", "fit", "torch")
def sign_of_likelihood(seed, wrong):
    """The mean log-likelihood is minimised: accuracy 0 where chance is a third."""
    d = draw("latch", seed, 1200, 5, 7, 3)

    def loss(z, y, mask):
        value = torch.log_softmax(z, -1).gather(-1, y[..., None])[..., 0][mask].clip(-6).mean()
        return value if wrong else -value

    return fits(d, lambda: Recurrent(7, 3), seed, loss=loss)


@case("wrong_loss", "fit", "torch")
def classes_from_one(seed, wrong):
    """Classes counted from one in the loss (and one output more, so that it runs), from zero elsewhere."""
    d = draw("own", seed, 1300, 6, 8, 3)
    one = 1 if wrong else 0

    def loss(z, y, mask):
        return cross_entropy(z, y + one, mask)

    return fits(d, lambda: dense(8, 3 + one), seed, loss=loss)


@case("scrambled_axes", "fit", "torch")
def view_for_permute_in_loss(seed, wrong):
    """CrossEntropyLoss wants (batch, classes, steps): reached with view instead of permute."""
    d = draw("own", seed, 1400, 6, 9, 3)

    def loss(z, y, mask):
        first = z.reshape(len(z), 3, -1) if wrong else z.transpose(1, 2)
        return F.cross_entropy(first, y, reduction="none")[mask].mean()

    # What predict returns is what the loss was given, brought back in the same way.
    return fits(d, lambda: dense(9, 3), seed, loss=loss)


@case("scrambled_axes", "predict", "torch")
def view_to_time_first(seed, wrong):
    """x.view(steps, batch, features) before an LSTM that wants time first."""
    d = draw("held1", seed, 1500, 5, 6, 2)

    class Net(Recurrent):
        def forward(self, x):
            n, steps, size = x.shape
            first = x.reshape(steps, n, size) if wrong else x.transpose(0, 1)
            return self.head(self.core(first)[0]).reshape(steps, n, -1).transpose(0, 1)

    torch.manual_seed(seed)
    return predicts(d, reader(trained(d, Net(6, 2, batch_first=False))))


@case("target_leak", "fit", "torch")
def teacher_unshifted(seed, wrong):
    """A decoder that is fed its targets, and not those of the step before: zeros when it must predict."""
    d = draw("own", seed, 1500, 5, 6, 3)
    d = d._replace(x=tiles(d.x, 0.3, 0))

    class Net(Recurrent):
        def forward(self, x, targets=None):
            hint = torch.zeros(*x.shape[:2], 3) if targets is None else 4.0 * F.one_hot(targets, 3)
            return self.head(self.core(torch.cat([x, hint], -1))[0])

    feeds = (lambda x, y: (x, y)) if wrong else (lambda x, y: (x,))
    return fits(d, lambda: Net(9, 3), seed, feeds=feeds)


@case("mask_ignored", "fit", "torch")
def loss_over_padding(seed, wrong):
    """The loss is a mean over all steps; behind the end stand labels 0 and what the buffer held before."""
    d = draw("own", seed, 1500, 10, 6, 3, lengths=True)
    rest = np.random.default_rng(seed).permutation(len(d.x))
    x = np.where(d.mask[..., None], d.x, draw("own", seed, 1500, 10, 6, 3).x[rest])
    d = d._replace(x=x)

    def loss(z, y, mask):
        return cross_entropy(z, y, torch.ones_like(mask) if wrong else mask)

    return fits(d, lambda: dense(6, 3), seed, loss=loss)


@case("mask_inverted", "fit", "torch")
def weight_of_padding(seed, wrong):
    """The mask of padding (True where there is none of the sequence) taken for a weight."""
    d = draw("latch", seed, 1600, 8, 5, 3, lengths=True)

    def loss(z, y, mask):
        chosen = ~mask if wrong else mask
        if not chosen.any():
            return 0 * z.sum()
        return cross_entropy(z, y, chosen)

    return fits(d, lambda: Recurrent(5, 3), seed, loss=loss)


# --- Outputs that mix, or see what they should not ---------------------------------------------------------------


@case("batch_time_swapped", "predict", "torch")
def lstm_without_batch_first(seed, wrong):
    """nn.LSTM on (batch, steps, features) without batch_first=True."""
    d = draw("latch", seed, 1500, 6, 5, 3)
    torch.manual_seed(seed)
    return predicts(d, reader(trained(d, Recurrent(5, 3, batch_first=not wrong))))


@case("batch_time_swapped", "fit", "torch")
def gru_without_batch_first(seed, wrong):
    """The same with a GRU, as a whole training."""
    d = draw("held1", seed, 1300, 5, 8, 2)
    return fits(d, lambda: Recurrent(8, 2, kind=nn.GRU, batch_first=not wrong), seed)


@case("batch_time_swapped", "predict", "torch")
def encoder_without_batch_first(seed, wrong):
    """TransformerEncoderLayer attends over the batch: batch_first is False by default."""
    d = draw("first", seed, 1200, 5, 6, 2)
    torch.manual_seed(seed)
    return predicts(d, reader(trained(d, Transformer(6, 2, steps=5, batch_first=not wrong), lr=3e-3, epochs=20)))


@case("training_mode", "predict", "torch")
def dropout_left_on(seed, wrong):
    """model.eval() forgotten: predictions differ from call to call."""
    d = draw("own", seed, 1600, 4, 8, 3)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Dropout(0.75), nn.Linear(24, 3))
    return predicts(d, reader(trained(d, net, epochs=25), train=wrong))


@case("training_mode", "predict", "torch", also=("batch_leak",))
def batch_norm_left_on(seed, wrong):
    """The same with BatchNorm1d: a prediction depends on its batch.  (From outside it is a leak, and no more.)"""
    d = draw("own", seed, 1400, 5, 6, 2)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.body = nn.BatchNorm1d(6), dense(6, 2)

        def forward(self, x):
            return self.body(self.norm(x.transpose(1, 2)).transpose(1, 2))

    torch.manual_seed(seed)
    return predicts(d, reader(trained(d, Net(), epochs=20), train=wrong))


@case("batch_leak", "predict", "torch")
def state_kept(seed, wrong):
    """The hidden state of the last call is where the next one starts."""
    d = draw("latch", seed, 1500, 5, 6, 3, prior=[0.7, 0.15, 0.15])
    torch.manual_seed(seed)
    net = trained(d, Recurrent(6, 3, kind=nn.GRU), epochs=20)
    kept = {}

    def predict(x):
        with torch.no_grad():
            x = torch.as_tensor(np.asarray(x, np.float32))
            out, last = net.core(x, kept.get(len(x)) if wrong else None)
            kept[len(x)] = last
            return net.head(out).numpy()

    return predicts(d, predict)


@case("sees_future", "predict", "torch")
def both_directions(seed, wrong):
    """bidirectional=True in a model that is to run on a stream."""
    d = draw("latch", seed, 1300, 6, 5, 2)
    torch.manual_seed(seed)
    net = Recurrent(5, 2, bidirectional=wrong)
    return predicts(d, reader(trained(d, net)), causal=True)


@case("sees_future", "predict", "torch")
def no_causal_mask(seed, wrong):
    """A decoder-only transformer without its mask: training loss far too good."""
    d = draw("held1", seed, 1500, 6, 6, 3)
    torch.manual_seed(seed)
    net = Transformer(6, 3, steps=6, causal=not wrong)
    return predicts(d, reader(trained(d, net, lr=3e-3, epochs=15)), causal=True)


@case("constant_over_steps", "predict", "torch")
def last_hidden_for_all(seed, wrong):
    """out[:, -1] put through the head and expanded to all steps."""
    d = draw("own", seed, 1500, 5, 6, 2)

    class Net(Recurrent):
        def forward(self, x):
            out = self.core(x)[0]
            return self.head(out[:, -1:].expand_as(out) if wrong else out)

    torch.manual_seed(seed)
    return predicts(d, reader(trained(d, Net(6, 2))))


@case("ignores_input", "predict", "torch")
def norm_of_one_feature(seed, wrong):
    """LayerNorm(1) on a series of one feature: whatever comes in, 0 goes out."""
    d = draw("own", seed, 1600, 6, 2, 2)
    d = d._replace(x=(d.events[..., None] - 0.5 + 0.1 * d.x[..., :1]).astype(np.float32))
    torch.manual_seed(seed)
    net = nn.Sequential(nn.LayerNorm(1), dense(1, 2)) if wrong else dense(1, 2)
    return predicts(d, reader(trained(d, net)))


@case("outputs_shifted", "fit", "torch")
def shifted_like_a_language_model(seed, wrong):
    """logits[:, 1:] against labels[:, :-1]: a shift that belongs to next-token targets, and the wrong way."""
    d = draw("own", seed, 1500, 7, 6, 3)

    def loss(z, y, mask):
        return (
            cross_entropy(z[:, 1:], y[:, :-1], mask[:, :-1] & mask[:, 1:]) if wrong else cross_entropy(z, y, mask)
        )

    return fits(d, lambda: Recurrent(6, 3), seed, loss=loss)


@case("outputs_reversed", "predict", "torch")
def flipped_once(seed, wrong):
    """A backward LSTM on flipped inputs, trained right, deployed without the flip of its outputs."""
    d = draw("soon1", seed, 1400, 6, 5, 2)

    class Net(Recurrent):
        back = True

        def forward(self, x):
            z = self.head(self.core(x.flip(1))[0])
            return z.flip(1) if self.back else z

    torch.manual_seed(seed)
    net = trained(d, Net(5, 2))
    net.back = not wrong
    return predicts(d, reader(net))


@case("history_unused", "predict", "torch", also=("unseen_steps",))
def attends_to_itself(seed, wrong):
    """Attention with a bias of -14 for every step of distance: all but the own step count for nothing.

    (It could see the past, and outputs move by 1e-5 with it; below rounding, unseen_steps says the same.)
    """
    d = draw("latch", seed, 1600, 7, 5, 2, prior=[0.85, 0.15])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Linear(5, 24), nn.Sequential(nn.ReLU(), nn.Linear(24, 2))
            self.keys, self.values = nn.Linear(24, 24), nn.Linear(24, 24)

        def forward(self, x):
            h, t = self.embed(x), torch.arange(x.shape[1])
            far = t[:, None] - t
            bias = torch.where(far < 0, -torch.inf, -far * (14.0 if wrong else 0.1))
            q, k = 5 * F.normalize(h, dim=-1), 5 * F.normalize(self.keys(h), dim=-1)
            return self.out(h + F.scaled_dot_product_attention(q, k, self.values(h), attn_mask=bias))

    torch.manual_seed(seed)
    return predicts(d, reader(trained(d, Net(), epochs=20)))


# --- What is left ------------------------------------------------------------------------------------------------


@case("unseen_steps", "predict", "torch")
def kernel_too_short(seed, wrong):
    """A convolution of three steps where what counts stands three back."""
    d = draw("held3", seed, 2000, 8, 5, 2)
    torch.manual_seed(seed)
    return predicts(d, reader(trained(d, Convolution(5, 2, kernel=3 if wrong else 7))))


@case("unseen_steps", "fit", "torch", also=("history_unused",))
def state_never_passed(seed, wrong):
    """A loop over nn.LSTMCell that does not hand the state on.  (It could see the past: either name is right.)"""
    d = draw("latch", seed, 1200, 4, 6, 3)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTMCell(6, 24), nn.Linear(24, 3)

        def forward(self, x):
            state, out = None, []
            for t in range(x.shape[1]):
                after = self.cell(x[:, t], state)
                out.append(after[0])
                state = None if wrong else after
            return self.head(torch.stack(out, 1))

    return fits(d, Net, seed, epochs=12)


@case("unknown_position", "predict", "torch")
def no_positional_encoding(seed, wrong):
    """A transformer without positions, on labels that go by them."""
    d = draw("by_step", seed, 1500, 4, 6, 2)
    torch.manual_seed(seed)
    net = Transformer(6, 2, steps=0 if wrong else 4)
    return predicts(d, reader(trained(d, net, lr=3e-3, epochs=20)))


@case("model_family", "predict", "torch")
def no_activation(seed, wrong):
    """Five Linear layers in a row, and nothing between them."""
    d = draw("own", seed, 2000, 3, 8, 4)
    rng = np.random.default_rng(seed)
    corner = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])[d.events]
    x = np.concatenate([corner, np.zeros((*corner.shape[:2], 6))], -1) + 0.15 * rng.normal(size=d.x.shape)
    d = d._replace(x=x.astype(np.float32), y=d.events % 2)
    torch.manual_seed(seed)
    between = nn.Identity if wrong else nn.ReLU
    net = nn.Sequential(nn.Linear(8, 32), between(), nn.Linear(32, 32), between(), nn.Linear(32, 2))
    return predicts(d, reader(trained(d, net)))


@case("optimisation", "predict", "torch")
def stopped_after_one_epoch(seed, wrong):
    """Early stopping with a patience of 0: the loss was still falling fast."""
    d = draw("latch", seed, 1500, 8, 6, 3)
    torch.manual_seed(seed)
    return predicts(d, reader(trained(d, Recurrent(6, 3), epochs=2 if wrong else 20, lr=5e-3 if wrong else 1e-2)))


@case("generalisation", "predict", "torch")
def learnt_by_heart(seed, wrong):
    """A wide network and 250 noisy sequences: training 0, validation worse than guessing."""
    d = draw("own", seed, 450, 3, 20, 2, noise=0.2)
    x, y = d.given["x"], d.given["y"]
    known = {"x": x[:250], "y": y[:250], "x_val": x[250:], "y_val": y[250:]}
    torch.manual_seed(seed)
    net = dense(20, 2, 256)
    everything = np.ones((250, 3), bool)
    if wrong:
        loop(net, known["x"], known["y"], everything, epochs=200, lr=3e-3)
    else:  # decay and few epochs: as good as 250 sequences allow
        optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=3.0)
        loop(net, known["x"], known["y"], everything, epochs=12, optimiser=optimiser)
    return Given(known | {"predict": reader(net)}, d.test, noise_entropy(0.2, 2))


@case("metric_disagrees", "predict", "torch")
def loss_of_all_steps(seed, wrong):
    """The logged loss is a mean that counts the padding, where it is 0."""
    d = draw("held1", seed, 1500, 10, 6, 3, lengths=True, noise=0.1)
    torch.manual_seed(seed)
    net = trained(d, Recurrent(6, 3, width=12), epochs=12, lr=1e-2)
    x, y, mask = (d.given[name] for name in ("x", "y", "mask"))
    z = torch.log_softmax(torch.as_tensor(reader(net)(x)), -1).numpy()
    lost = -np.take_along_axis(z, y[..., None], -1)[..., 0] * mask
    observed = lost.mean() if wrong else lost.sum() / mask.sum()
    return predicts(d, reader(net), noise_entropy(0.1, 3), observed_loss=float(observed))


# --- Three of the eight procedures of the report card: as they are, and with one mistake -------------------------


@case("wrong_loss", "fit", "torch")
def card_dense(seed, wrong):
    """A dense network; labels start at one in the loss alone."""
    d = draw("own", seed, 1500, 5, 10, 4)
    one = 1 if wrong else 0
    return fits(d, lambda: dense(10, 4 + one), seed, loss=lambda z, y, mask: cross_entropy(z, y + one, mask))


@case("softmax_twice", "fit", "torch", also=("probabilities_as_logits",))
def card_convolution(seed, wrong):
    """A convolution over three steps; a softmax before cross-entropy."""
    d = draw("held1", seed, 1600, 7, 6, 3)
    last = nn.Softmax(-1) if wrong else nn.Identity()
    return fits(d, lambda: nn.Sequential(Convolution(6, 3, causal=True), last), seed)


@case("batch_time_swapped", "fit", "torch")
def card_transformer(seed, wrong):
    """A transformer with positions; batch_first forgotten."""
    d = draw("first", seed, 1000, 5, 7, 3)
    return fits(d, lambda: Transformer(7, 3, steps=5, batch_first=not wrong), seed, lr=3e-3, epochs=20)
