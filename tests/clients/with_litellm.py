"""LiteLLM's completion call, in an environment of its own. Prints what it got as JSON.

python with_litellm.py URL MODEL QUESTION
"""

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches a price list at import

import litellm

litellm.suppress_debug_info = True
litellm.telemetry = False


def main(url: str, model: str, question: str) -> dict[str, Any]:
    def ask(**options: Any) -> Any:
        return litellm.completion(
            model=f"openai/{model}",
            api_base=f"{url}/v1",
            api_key="none",
            messages=[{"role": "user", "content": question}],
            max_retries=0,
            num_retries=0,
            **({"temperature": 0} | options),
        )

    answer = ask()
    told: dict[str, Any] = {
        "unary": answer.choices[0].message.content,
        "finish_reason": answer.choices[0].finish_reason,
        "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens],
    }
    pieces = list(ask(stream=True, stream_options={"include_usage": True}))
    texts = [choice.delta.content for piece in pieces for choice in piece.choices if choice.delta.content]
    usage = [piece.usage for piece in pieces if getattr(piece, "usage", None)]
    told |= {
        "stream": "".join(texts),
        "pieces": len(texts),
        "stream finish_reason": [c.finish_reason for p in pieces for c in p.choices if c.finish_reason],
        "stream usage": [[u.prompt_tokens, u.completion_tokens, u.total_tokens] for u in usage],
    }
    try:
        ask(temperature=9)
    except litellm.BadRequestError as error:
        told["error"] = [error.status_code, "temperature" in error.message]
    return told


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
