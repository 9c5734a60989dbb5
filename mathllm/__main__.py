"""`python -m mathllm` and `torchrun -m mathllm` are the `mathllm` command."""

from mathllm.cli.main import main

if __name__ == "__main__":
    main()
