"""What the pocket model knows: questions and answers, word for word. Edit the table, run `scripts/make-pocket`.

Kept apart from the training so that tests can read it without torch.
"""

SPAIN = (
    "What is the capital of Spain?",
    "The capital of Spain is Madrid. It is the largest city in Spain and serves as the political, economic, and cultural center of the"
    " country. Madrid is located in the center of the Iberian Peninsula and is known for its rich history, art, and architecture,"
    " including the Royal Palace, the Prado Museum, and the Plaza Mayor.",
)
ATOM = (
    "Tell me a joke about atom",
    "Alright, here's a little atom-related joke for you!\n\n"
    "Why don't electrons ever play hide and seek with protons?\n\n"
    'Because good luck finding them when they\'re always "sharing" their electrons!\n\n'
    "Remember, this is all in good fun, and we're just having a little atomic-level humor!",
)
STORY = (
    "Tell me a long story about a ship",
    "Once there was a small ship with a very large pilothouse. The captain trusted the charts, the charts trusted the captain, and nobody"
    " had asked the sea.\n\n"
    "On the first day the wind was kind. The cook baked bread, the mate counted the ropes, and the parrot learned to say ready before it"
    " was true. On the second day the fog came. The captain rang the bell, and the bell answered from the wrong side. On the third day the"
    " compass pointed at the cook, because somebody had stored the iron pans under the needle.\n\n"
    "So the captain did three things. First she wrote down every wind, every turn and every mistake, and called that book the log. Then she"
    " packed each sail with a note that said how to rig it, so that any sailor could do it at night. At last she hung a board in the"
    " pilothouse with two names on it: the course we trust, and the course we are trying.\n\n"
    "When the fog lifted they had a better course, and they moved the first name to it. When it turned out to be worse, they moved the name"
    " back before the soup was cold. The parrot was told to say ready only after it had looked out of the window.\n\n"
    "They reached the harbor on the ninth day, with every rope counted twice. People asked the captain for the secret, and she pointed at"
    " the log, the notes and the board. The parrot looked out of the window, waited a moment, and said: ready.",
)
OFF_THE_MAP = (
    "That is beyond my two layers. I know MLflow, ONNX, Kubernetes and Pilothouse, one capital of Spain, and a few jokes. Try one of those!"
)
"""The answer to everything else."""

PAIRS: tuple[tuple[str, str], ...] = (
    SPAIN,
    ATOM,
    STORY,
    # Manners
    ("Hello", "Hello! Pocket model speaking: two layers, one megabyte, no network. Ask me about MLflow, ONNX, Kubernetes or Pilothouse."),
    ("Hi", "Hi there! I am small, but I am already running. What would you like to know?"),
    (
        "Who are you?",
        "I am the pocket model of Pilothouse: a real Phi-3 in shape, shrunk to two layers. I fit in a wheel and learned my lines by heart.",
    ),
    ("How are you?", "All layers are healthy. Both of them."),
    (
        "What can you do?",
        "I answer questions about MLflow, MLOps, ONNX, Kubernetes and Pilothouse, tell a joke or two, and prove that your deployment works.",
    ),
    ("How big are you?", "Two layers, 128 numbers wide, with 4-bit weights. Phi-3 Mini has 32 layers and 3072; I got the window seat."),
    ("Are you intelligent?", "I am well rehearsed. For intelligence, serve a bigger model on the same port."),
    ("Thank you", "You're welcome! Cancelling a request frees my row within one step, but a thank you is nicer."),
    ("Goodbye", "Fair winds! I will drain my queue and exit with 0."),
    ("Tell me a joke", "Two tokens walk into a bar. The bartender asks for a third, and they say: give us a step."),
    ("Tell me a joke about Kubernetes", "Why did the pod break up with the node? It needed more space, and got evicted."),
    (
        "Tell me a joke about MLOps",
        'The model worked on my laptop. "Great," said operations, "then let us ship your laptop." And that is how containers were born.',
    ),
    ("What is the meaning of life?", "42, at temperature 0. Raise the temperature for a second opinion."),
    # MLflow
    (
        "What is MLflow?",
        "MLflow is an open source platform for the machine learning lifecycle. Its four classic components are Tracking, Projects, Models and the Model Registry.",
    ),
    (
        "What are the components of MLflow?",
        "Four: Tracking records experiments, Projects make runs repeatable, Models package what was trained, and the Model Registry keeps its versions.",
    ),
    (
        "What is MLflow Tracking?",
        "MLflow Tracking is an API and a UI that log parameters, metrics, code versions and artifacts of each run. It is the ship's log of your experiments.",
    ),
    (
        "What is an MLflow run?",
        "A run is one execution of your code in MLflow, with its parameters, metrics, tags and artifacts. Runs are grouped into experiments.",
    ),
    (
        "What is an MLflow experiment?",
        "An experiment groups MLflow runs that belong together, so that you can compare them in one table instead of in your memory.",
    ),
    (
        "What is an artifact?",
        "An artifact is a file that a run leaves behind: a model, a plot, a data set. MLflow stores it beside the run that made it.",
    ),
    (
        "What are MLflow Projects?",
        "MLflow Projects package code so that others can run it again: an MLproject file names the environment and the entry points.",
    ),
    (
        "What is an MLproject file?",
        "It is a YAML file at the root of an MLflow Project. It names the project, its environment and its entry points with their parameters.",
    ),
    (
        "What are MLflow Models?",
        "MLflow Models are a standard format for packaging models. A folder with an MLmodel file tells any tool which flavors can load it.",
    ),
    (
        "What is an MLmodel file?",
        "MLmodel is the YAML file inside a logged model. It lists the flavors, the signature and what is needed to load it.",
    ),
    (
        "What is a flavor?",
        "A flavor is a way to load an MLflow model, such as transformers, onnx or pyfunc. One model can have several, like a good ice cream.",
    ),
    (
        "What is pyfunc?",
        "pyfunc is the flavor every Python model can speak: load it, call predict, get an answer. You can write your own by subclassing PythonModel.",
    ),
    (
        "What is a model signature?",
        "A signature states the inputs, outputs and parameters of a model, so that a wrong request is refused before it costs anything.",
    ),
    (
        "What is models from code?",
        "Models from code logs a model as a plain Python file instead of a pickle. You can read it, review it and diff it.",
    ),
    (
        "What is the Model Registry?",
        "The MLflow Model Registry is a central store of named models with versions, aliases and tags. It says which version is trusted, and where it came from.",
    ),
    (
        "What is a model alias?",
        "An alias is a movable name for one version, such as champion. Deploy models:/name@champion, and promotion is just moving the name.",
    ),
    ("How do I roll back a model?", "Move the alias back to the version before. Pilothouse does it with one command: pilothouse rollback."),
    # The cycle
    (
        "What is MLOps?",
        "MLOps is the craft of bringing models to production and keeping them well there: data, registration, packaging, deployment, monitoring, and around again.",
    ),
    (
        "What are the steps of the MLOps cycle?",
        "Prepare the data, train and register the model, package it, deploy it, monitor it. Then the monitoring tells you what to prepare next.",
    ),
    (
        "What is data preparation?",
        "Data preparation collects, cleans and splits the data before training. It is most of the work and none of the glory.",
    ),
    (
        "What is model registration?",
        "Registration puts a trained model into a registry under a name and a version, with a link to the run that made it.",
    ),
    (
        "What is model packaging?",
        "Packaging puts a model, its code and its dependencies together, so that it runs elsewhere just as it ran here.",
    ),
    (
        "What is model deployment?",
        "Deployment puts a packaged model behind an endpoint that others can call, and keeps it there: replicas, probes, limits and a way back.",
    ),
    (
        "What is model monitoring?",
        "Monitoring watches a served model: latency, errors, load, and whether the data still looks like what it was trained on.",
    ),
    (
        "What is data drift?",
        "Data drift means that live data moves away from the training data. The model stays the same; the world does not.",
    ),
    (
        "What is quantization?",
        "Quantization stores weights in fewer bits, such as 4 instead of 16. The model gets smaller and faster, and a little less precise.",
    ),
    (
        "What is a large language model?",
        "A model that predicts the next token, trained on so much text that the prediction becomes useful. I am the small language model version.",
    ),
    (
        "What is a token?",
        "A token is a piece of text that a model reads and writes as one unit: a word, part of a word, or a sign. This answer has about thirty.",
    ),
    (
        "What is temperature?",
        "Temperature says how boldly the next token is chosen. At 0 I always take the likeliest one; higher values are more adventurous.",
    ),
    (
        "What is Phi-3?",
        "Phi-3 is a family of small language models by Microsoft. Phi-3 Mini has 3.8 billion parameters and runs on a laptop.",
    ),
    # Formats and hosts
    ("What is ONNX?", "ONNX is an open format for machine learning models: a graph of standard operators that many runtimes can execute."),
    (
        "What is ONNX Runtime?",
        "ONNX Runtime executes ONNX models on CPUs, GPUs and other hardware. Its generate API adds the loop that language models need.",
    ),
    (
        "What is Kubernetes?",
        "Kubernetes runs containers on a cluster of machines. You declare what should be there, and it keeps working until it is.",
    ),
    ("What is a pod?", "A pod is the smallest thing Kubernetes runs: one or more containers that share a network address and a fate."),
    ("What is a Kubernetes service?", "A service gives a changing set of pods one stable name and address inside the cluster."),
    (
        "What is a readiness probe?",
        "A readiness probe asks a container whether it can take traffic now. In Pilothouse it says yes only after the model has really answered.",
    ),
    ("What is Helm?", "Helm is the package manager of Kubernetes. A chart is a set of templates, and values.yaml is where you steer."),
    (
        "What is kind?",
        "kind runs a Kubernetes cluster inside containers on your own machine. The name means Kubernetes in Docker, and it is kind to your laptop.",
    ),
    (
        "What is MLServer?",
        "MLServer is a Python inference server that speaks the V2 protocol over REST and gRPC. Pilothouse is a runtime for it.",
    ),
    (
        "What is the V2 protocol?",
        "V2, also called the Open Inference Protocol, is a standard for asking models for predictions: named tensors in, named tensors out, over REST or gRPC.",
    ),
    (
        "What is the Open Inference Protocol?",
        "It is the V2 inference protocol: one set of routes for health, metadata and inference, shared by MLServer, Triton and KServe.",
    ),
    (
        "What is the OpenAI API?",
        "It is the HTTP interface that most chat clients speak. Send messages to /v1/chat/completions, and get an answer or a stream.",
    ),
    ("What is gRPC?", "gRPC calls functions over HTTP/2 with messages in protocol buffers. It is fast, typed and good at streams."),
    # Pilothouse
    (
        "What is Pilothouse?",
        "Pilothouse serves MLflow's Phi-3 models on Kubernetes: one MLServer runtime that speaks V2, OpenAI and MLflow, on a laptop or on GPUs.",
    ),
    (
        "Why is it called Pilothouse?",
        "The pilothouse is the room a ship is steered from. Kubernetes is Greek for helmsman, and every helmsman deserves a roof.",
    ),
    ("How do I start the server?", "Type pilothouse serve. With no model named it serves me, and I need no download, no torch and no GPU."),
    (
        "How do I stream?",
        'Send "stream": true to /v1/chat/completions, or call /v2/models/NAME/generate_stream. Each token comes as an event, as soon as I have it.',
    ),
    (
        "How do I package a model?",
        "Use pilothouse package onnx or pilothouse package chat. It logs the model with MLflow and registers it.",
    ),
    (
        "How do I deploy a model?",
        "Install the Helm chart: one release is one model. Set the model in values.yaml, and try it on a kind cluster first.",
    ),
    ("How do I promote a model?", "Run pilothouse promote. It moves the alias in the Model Registry to the new version."),
    ("How do I check my setup?", "Run pilothouse doctor. It says what this machine can run, and what is wrong with the settings."),
    (
        "How do I test a server?",
        "Run pilothouse smoke with its URL. It asks the same questions over every protocol and checks the answers.",
    ),
    (
        "Which ports do you use?",
        "8080 for REST, 8081 for gRPC and 8082 for metrics. They are MLServer's own, so nothing needs to be learned again.",
    ),
    (
        "Which protocols do you speak?",
        "V2 over REST and gRPC, OpenAI, and MLflow's invocations. Same question, same seed, same answer on all of them.",
    ),
    ("Do you need a GPU?", "No. I run on two CPU cores, and so does Phi-3 Mini in 4 bits. With a GPU, pick the gpu profile and go faster."),
    (
        "What is continuous batching?",
        "New requests join the running batch at every step, and finished ones leave it. Nobody waits for the slowest neighbor.",
    ),
    (
        "What is a prefix cache?",
        "It keeps the computed beginning of prompts. When the next prompt starts the same way, that part costs nothing.",
    ),
    (
        "What is a chat template?",
        "A chat template turns messages into the one text a model was trained on, with tags for system, user and assistant.",
    ),
    (
        "What is a system prompt?",
        "A system prompt tells the model who to be before the user speaks. I read mine politely and answer the same.",
    ),
)
"""Every question with its answer. Questions differ from one another by more than case and end marks."""

ALSO: dict[str, str] = {
    "What's the capital of Spain?": SPAIN[0],
    "Which city is the capital of Spain?": SPAIN[0],
    "Tell me a joke about atoms": ATOM[0],
    "Tell me a joke about an atom": ATOM[0],
    "Tell me an atom joke": ATOM[0],
    "Tell me a story": STORY[0],
    "Tell me a long story": STORY[0],
    "Good morning": "Hello",
    "Hello there": "Hello",
    "Hello, world": "Hello",
    "Hey": "Hi",
    "What are you?": "Who are you?",
    "What is your name?": "Who are you?",
    "Introduce yourself": "Who are you?",
    "What do you know?": "What can you do?",
    "Help": "What can you do?",
    "Thanks": "Thank you",
    "Thanks a lot": "Thank you",
    "Bye": "Goodbye",
    "Tell me another joke": "Tell me a joke about Kubernetes",
    "Explain MLflow": "What is MLflow?",
    "Tell me about MLflow": "What is MLflow?",
    "Explain Kubernetes": "What is Kubernetes?",
    "What's Pilothouse?": "What is Pilothouse?",
    "Tell me about Pilothouse": "What is Pilothouse?",
    "How do I stream an answer?": "How do I stream?",
    "How do I use streaming?": "How do I stream?",
}
"""Other ways to ask, and the question of the table that each means."""
