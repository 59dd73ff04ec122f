"""Right answers to the exercises of chapter 08 that differ from the solutions."""

RIGHT = {
    "ch08-exercise-1": [
        """
def cosine_rate(step, done, config):
    warm_up = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return config.learning_rate * warm_up * math.cos(math.pi / 2 * done) ** 2
""",
        """
def cosine_rate(step, done, config):
    rate = config.learning_rate * (0.5 + 0.5 * math.cos(done * math.pi))
    if step < config.warmup_steps:
        rate *= (step + 1) / (config.warmup_steps + 1)
    return rate
""",
        """
def cosine_rate(step, done, config):
    line = learning_rate(step, 0.0, config)
    return line * (1 + torch.cos(torch.tensor(torch.pi * done))) / 2
""",
    ],
    "ch08-exercise-2": [
        """
def accumulate(model, x, y, most):
    model.zero_grad()
    losses = []
    for start in range(0, len(x), most):
        part = slice(start, start + most)
        loss = next_character_loss(model(x[part]).logits, y[part], reduction="sum") / y.numel()
        loss.backward()
        losses.append(loss.item())
    return sum(losses)
""",
        """
def accumulate(model, x, y, most):
    total = 0.0
    for inputs, targets in zip(x.split(1), y.split(1)):
        loss = next_character_loss(model(inputs).logits, targets) / len(x)
        loss.backward()
        total += loss.item()
    return total
""",
        """
def accumulate(model, x, y, most):
    total = torch.zeros(())
    for inputs, targets in zip(x.split(most), y.split(most)):
        loss = next_character_loss(model(inputs).logits, targets) * (len(inputs) / len(x))
        loss.backward()
        total += loss.detach()
    return total.item()
""",
        """
def accumulate(model, x, y, most):
    total = 0.0
    for part in torch.arange(len(x)).split(most):
        loss = next_character_loss(model(x[part]).logits, y[part])
        loss.backward(torch.tensor(len(part) / len(x)))
        total += loss.item() * len(part) / len(x)
    return total
""",
    ],
    "ch08-exercise-3": [
        """
@torch.no_grad()
def repaired_evaluate(model, ids, seq_len):
    was_training = model.training
    model.eval()
    total = 0.0
    for x, y in evaluation_batches(ids, 64, seq_len):
        total += next_character_loss(model(x).logits, y, reduction="sum").item()
    if was_training:
        model.train()
    return total / (len(ids) - 1)
""",
        """
def repaired_evaluate(model, ids, seq_len):
    mode, total, count = model.training, 0.0, 0
    try:
        model.train(False)
        with torch.no_grad():
            for x, y in evaluation_batches(ids, 16, seq_len):
                total += next_character_loss(model(x).logits, y).item() * y.numel()
                count += y.numel()
    finally:
        model.train(mode)
    return total / count
""",
        """
@torch.no_grad()
def repaired_evaluate(model, ids, seq_len):
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    losses = [
        next_character_loss(model(x).logits, y, reduction="none")
        for x, y in evaluation_batches(ids, 64, seq_len)
    ]
    for module, mode in modes:
        module.training = mode
    return torch.cat(losses).mean()
""",
    ],
}
