"""`pilothouse chat URL`: talk to a served model in the terminal."""

import argparse
import sys
import time
from typing import Any

from pilothouse.commands.smoke import key, trust, trusting, unreachable
from pilothouse.errors import StartError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("chat", help="talk to a served model in the terminal", description=__doc__)
    command.add_argument("url", nargs="?", default="http://127.0.0.1:8080", help="the server's base URL (default: %(default)s)")
    trusting(command)
    command.add_argument("--system", help="a system prompt")
    command.add_argument("--temperature", type=float, help="0 is greedy (default: the model's)")
    command.add_argument("--max-tokens", type=int, help="most tokens of one answer")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Turns until an empty line, end of input or Ctrl-C."""
    from pilothouse.smoke.checks import find_model
    from pilothouse.smoke.client import Client

    client = Client(args.url.rstrip("/"), key=key(args), trust=trust(args))
    try:
        model = find_model(client)
    except Exception as error:
        raise unreachable(args.url, error) from None
    tty = sys.stdin.isatty()
    if tty:
        print(f"{model} at {args.url}. An empty line ends the chat.")
    messages: list[dict[str, str]] = [{"role": "system", "content": args.system}] if args.system else []
    options = {name: value for name in ("temperature", "max_tokens") if (value := getattr(args, name)) is not None}
    while True:
        try:
            said = input("> " if tty else "").strip()
        except EOFError:
            return 0
        if not said:
            return 0
        messages.append({"role": "user", "content": said})
        try:
            answer = _turn(client, {"model": model, "messages": messages, **options})
        except (OSError, ValueError) as error:
            raise StartError(f"{args.url} did not answer: {error}") from None
        messages.append({"role": "assistant", "content": answer})


def _turn(client: Any, body: dict[str, Any]) -> str:
    """Print one answer as it comes, with its speed; returns its text."""
    begun, first, pieces, usage = time.monotonic(), 0.0, [], None
    for event in client.events("/v1/chat/completions", {**body, "stream": True, "stream_options": {"include_usage": True}}):
        if event.done:
            break
        chunk = event.json
        if "error" in chunk:
            print(f"\n[{chunk['error']['message']}]", file=sys.stderr)
            break
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                first = first or time.monotonic()
                pieces.append(text)
                print(text, end="", flush=True)
    print()
    if usage and first and sys.stderr.isatty():
        seconds = time.monotonic() - first
        rate = (usage["completion_tokens"] - 1) / seconds if seconds > 0 else 0.0
        print(f"[{usage['completion_tokens']} tokens, first after {(first - begun) * 1000:.0f} ms, {rate:.0f} tokens/s]", file=sys.stderr)
    return "".join(pieces)
