"""What pages share, that which `mathllm inspect` writes and that which `mathllm serve` shows: base.css and parts.js."""
