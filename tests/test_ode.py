import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from small import close, drawn

import puppet_jax as pj

SHAPES = [(6, 2, 3, 3), (6, 6, 3, 3), (4, 6, 1, 3), (4, 4, 1, 1)]
H = 5.3


def make(**options):
    return drawn(lambda: pj.OdePuppeteer(SHAPES, rngs=nnx.Rngs(0), **options))


def trajectory(puppeteer, h=H):
    """The state at each layer, (layers, C_out, C_in, K²)."""
    return np.transpose(jax.jit(lambda: puppeteer._states(jnp.float32(h)))(), (0, 3, 2, 1))


def finite_gradients(puppeteer, *complexities):
    """Whether all gradients of all kernels are finite; each complexity in one program with the others."""
    graphdef, state = nnx.split(puppeteer)
    loss = lambda state, h: sum((k**2).sum() for k in nnx.merge(graphdef, state)(h))  # noqa: E731
    found = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(state, jnp.asarray(complexities))
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


NAMES = ("depthwise", "depthwise_bias", "pointwise", "pointwise_bias")


def as_float64(puppeteer):
    return [np.asarray(getattr(puppeteer, name)[...], np.float64) for name in NAMES]


def euler(puppeteer, h, substeps=1):
    """Eq. (2) as a float64 loop from the puppeteer's own initial state."""
    state = np.asarray(puppeteer.initial_state(h), np.float64)
    dl = reference.step_size(h)
    states = []
    for _ in SHAPES:
        for _ in range(substeps):
            state = state + dl / substeps * reference.separable_field(state, *as_float64(puppeteer))
        states.append(state)
    return np.stack(states)


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize(("initial", "substeps"), [("constant", 1), ("low_rank", 3)])
def test_euler_is_eq_2(initial, substeps):
    puppeteer = make(initial=initial, steps_per_layer=substeps)
    assert relative(trajectory(puppeteer), euler(puppeteer, H, substeps)) < 1e-5


def test_spread_of_the_learned_start():
    made = jax.jit(lambda: pj.OdePuppeteer([(32, 32, 3, 3)], rank=16, rngs=nnx.Rngs(0)).initial_state(H))()
    assert float(np.std(made)) == pytest.approx(1.0, rel=0.15)


def test_start_is_eq_7_plus_what_is_learned():
    np.testing.assert_allclose(make(initial="constant").initial_state(H), np.full((6, 6, 9), np.exp(1 - H**-2)), 1e-6)
    puppeteer = make(initial="low_rank", rank=2)
    out, into, tap = (np.asarray(getattr(puppeteer, f"initial_{n}")[...], np.float64) for n in ("out", "in", "tap"))
    expected = np.exp(1 - H**-2) + np.einsum("ro,ri,rt->oit", out, into, tap)
    np.testing.assert_allclose(puppeteer.initial_state(H), expected, rtol=1e-4, atol=1e-5)


def test_kernels_are_the_trajectory_pooled():
    puppeteer = make(standardise=False)
    states = euler(puppeteer, H).reshape(len(SHAPES), 6, 6, 3, 3)
    for kernel, state, shape in zip(jax.jit(puppeteer)(H), states, SHAPES, strict=True):
        assert kernel.shape == shape
        np.testing.assert_allclose(kernel, reference.adaptive_average(state, shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"solver": diffrax.Heun(), "steps_per_layer": 16}, {"solver": diffrax.Dopri5()}], ids=str
)
def test_other_solvers_approach_the_exact_solution(options):
    puppeteer = make(**options)
    exact = 2 * euler(puppeteer, H, 128) - euler(puppeteer, H, 64)  # Richardson: error of order 1e-5
    assert relative(trajectory(puppeteer), exact) < 3e-4


@pytest.mark.parametrize(("solver", "steps"), [(diffrax.Euler(), 1), (diffrax.Bosh3(), 2)])
def test_trajectory_and_gradients_are_those_of_diffraxs_own_loop(solver, steps):
    puppeteer = make(solver=solver, steps_per_layer=steps)
    graphdef, state = nnx.split(puppeteer)
    weights = np.random.default_rng(1).standard_normal((len(SHAPES), 9, 6, 6)).astype(np.float32)

    def of_diffrax(puppeteer, h):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(puppeteer._slope),
            solver,
            *(0.0, float(len(SHAPES)), 1 / steps),
            jnp.transpose(puppeteer.initial_state(h), (2, 1, 0)),
            {"dl": pj.step_size(h), **puppeteer._parameters()},
            saveat=diffrax.SaveAt(ts=np.arange(1.0, len(SHAPES) + 1)),
        ).ys

    def value_and_gradients(states):
        def loss(state):
            values = states(nnx.merge(graphdef, state), jnp.float32(H))
            return (values * weights).sum(), values

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(state)

    found, expected = value_and_gradients(lambda p, h: p._states(h)), value_and_gradients(of_diffrax)
    assert len(jax.tree.leaves(found)) == 2 + 7
    assert close(found, expected, 1e-5)


@pytest.mark.parametrize("options", [{"initial": "constant", "standardise": False}, {}], ids=str)
def test_zero_complexity_is_finite_in_value_and_gradient(options):
    assert finite_gradients(make(**options), 0.0, H)


def test_parameter_counts_of_the_report():
    # Width 32, 7 layers: the counts that the design's table of measurements gives.
    shapes = [(32, 3, 3, 3)] + [(32, 32, 3, 3)] * 6
    for options, expected in (({"initial": "constant"}, 1376), ({"rank": 4}, 1668)):
        made = nnx.eval_shape(lambda options=options: pj.OdePuppeteer(shapes, rngs=nnx.Rngs(0), **options))
        assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(made, nnx.Param))) == expected


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"solver": "Tsit5"},
            TypeError,
            r"explicit ODE solver of diffrax, got str; for example solver=diffrax\.Tsit5\(\)",
        ),
        ({"solver": diffrax.SemiImplicitEuler()}, TypeError, "got SemiImplicitEuler"),
        ({"solver": diffrax.Kvaerno3()}, TypeError, "got Kvaerno3"),
        ({"rank": 0}, ValueError, "rank must be at least 1"),
        ({"initial": "learned"}, ValueError, "initial must be one of"),
        ({"steps_per_layer": 0}, ValueError, "steps_per_layer"),
    ],
)
def test_bad_options_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        pj.OdePuppeteer(SHAPES, rngs=nnx.Rngs(0), **options)


@pytest.mark.usefixtures("no_type_checker")
def test_every_puppeteer_refuses_batches_and_malformed_shapes():
    for puppeteer in (pj.OdePuppeteer, pj.ContinuousPuppeteer, pj.StoredPuppeteer):
        with pytest.raises(ValueError, match=r"jax\.vmap\(puppeteer\)\(h\)"):
            drawn(lambda p=puppeteer: p(SHAPES, rngs=nnx.Rngs(0)))(jnp.ones(3))
        with pytest.raises(ValueError, match="layer 2 must be"):
            puppeteer([(4, 3, 3, 3), (4, 4, 3)], rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match="empty"):
            puppeteer([], rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match="layer 1 has one weight per output channel"):
            puppeteer([(4, 1, 1, 1), (4, 4, 3, 3)], rngs=nnx.Rngs(0))
        nnx.eval_shape(lambda p=puppeteer: p([(4, 1, 1, 1), (4, 4, 3, 3)], standardise=False, rngs=nnx.Rngs(0)))
