"""Products in bf16 on a CPU: those of the formula, with its gradients, in training and nowhere else."""

import pytest
import torch
import torch.nn.functional as F
from runs import finished, records, same_run, tiny, weights

from mathllm.model.linear import ROWS, BlockLinear, use_bf16


def integers(*shape: int) -> torch.Tensor:
    """Numbers that bf16 holds exactly, as it does the sums of their products."""
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(sum(shape))).float()


@pytest.mark.parametrize("shape", [(16,), (1, 16), (2, 5, 16), (ROWS, 16), (3, ROWS, 16)])
def test_where_nothing_is_rounded_they_and_their_gradients_are_those_of_fp32(shape: tuple[int, ...]) -> None:
    linear, x = BlockLinear(16, 8), integers(*shape).requires_grad_()
    linear.weight.data = integers(8, 16)
    outcomes = []
    for rounded in (False, True):
        if rounded:
            use_bf16(linear)
        x.grad = linear.weight.grad = None
        out = linear(x)
        (out * integers(*out.shape)).sum().backward()
        outcomes.append((out, x.grad, linear.weight.grad))
    for fp32, bf16 in zip(*outcomes, strict=True):
        assert bf16.dtype == torch.float32
        torch.testing.assert_close(bf16, fp32, rtol=0, atol=0)


def test_factors_are_rounded_in_training_and_not_in_evaluation() -> None:
    linear, x = BlockLinear(64, 64), torch.rand(9, 64, generator=torch.Generator().manual_seed(0))
    exact = F.linear(x, linear.weight)
    assert torch.equal(linear(x), exact)
    use_bf16(linear)
    assert not torch.equal(linear(x), exact)
    torch.testing.assert_close(linear(x), exact, rtol=0.02, atol=0.02)
    with torch.no_grad():
        assert torch.equal(linear(x), exact)


def test_a_run_in_bf16_learns_keeps_fp32_weights_and_resumes_exactly(tmp_path) -> None:
    settings = (
        "train.precision=bf16",
        "optim.schedule=constant",
        "train.save_steps=10",
        "train.eval_steps=10",
    )
    finished(tiny(tmp_path / "whole", *settings))
    finished(tiny(tmp_path / "parts", *settings, "train.max_steps=10"))
    finished(tiny(tmp_path / "parts", *settings), resume=True)
    same_run(tmp_path / "whole", tmp_path / "parts", 20)
    assert {tensor.dtype for tensor in weights(tmp_path / "whole" / "best").values()} == {torch.float32}
    finished(tiny(tmp_path / "fp32", *settings, "train.precision=fp32"))
    rounded, exact = (records(tmp_path / name, "train/loss") for name in ("whole", "fp32"))
    assert rounded[20] != exact[20], "nothing was rounded"
    assert rounded[20] == pytest.approx(exact[20], rel=0.05)
    assert exact[20] < 0.9 * exact[1]
