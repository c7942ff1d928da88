"""The pocket model with a chat template that renders tools and calls, for what only such a model is asked."""

import shutil
from pathlib import Path

from pilothouse.models import pocket

TEMPLATE = """{%- if tools %}<|system|>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|end|>
{% endif %}
{%- for message in messages %}{{ '<|' + message.role + '|>\n' + message.content }}
{%- for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}{{ '<|end|>\n' }}
{%- endfor %}{{ '<|assistant|>\n' }}"""


def pocket_tools(folder: Path) -> Path:
    """A copy of the model in `folder`, with that template."""
    made = Path(shutil.copytree(pocket.FOLDER, folder / "pocket-tools"))
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made
