"""LangChain's OpenAI chat model, in an environment of its own. Prints what it got as JSON.

python with_langchain.py URL MODEL QUESTION
"""

import json
import sys
from typing import Any

import openai
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI


def main(url: str, model: str, question: str) -> dict[str, Any]:
    chat = ChatOpenAI(model=model, base_url=f"{url}/v1", api_key="none", temperature=0, max_retries=0, stream_usage=True)
    newer = ChatOpenAI(model=model, base_url=f"{url}/v1", api_key="none", temperature=0, max_retries=0, use_responses_api=True)
    asked = [SystemMessage("You are a helpful assistant."), HumanMessage(question)]
    answer = chat.invoke(asked)
    told: dict[str, Any] = {
        "unary": answer.content,
        "finish_reason": answer.response_metadata["finish_reason"],
        "usage": {name: answer.usage_metadata[name] for name in ("input_tokens", "output_tokens", "total_tokens")},
    }
    pieces = list(chat.stream(asked))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole + piece
    told |= {
        "stream": whole.content,
        "pieces": len([piece for piece in pieces if piece.content]),
        "stream finish_reason": whole.response_metadata["finish_reason"],
        "stream usage": {name: whole.usage_metadata[name] for name in ("input_tokens", "output_tokens", "total_tokens")},
    }
    told |= {"responses": over_responses(newer, asked)}
    try:
        chat.bind(temperature=9).invoke(asked)
    except openai.BadRequestError as error:
        told["error"] = error.param
    return told


def over_responses(chat: ChatOpenAI, asked: list[Any]) -> dict[str, Any]:
    """The same over /v1/responses, and a second turn with the first one's answer."""
    answer = chat.invoke(asked)
    pieces = list(chat.stream(asked))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole + piece
    again = chat.invoke([*asked, answer, asked[-1]])
    return {
        "unary": answer.text,
        "status": answer.response_metadata["status"],
        "usage": {name: answer.usage_metadata[name] for name in ("input_tokens", "output_tokens", "total_tokens")},
        "stream": whole.text,
        "pieces": len([piece for piece in pieces if piece.text]),
        "stream status": whole.response_metadata["status"],
        "stream usage": {name: whole.usage_metadata[name] for name in ("input_tokens", "output_tokens", "total_tokens")},
        "second turn": again.usage_metadata["input_tokens"],
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
