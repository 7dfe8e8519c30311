"""`python -m launch.publish RUN`: write the model card of a trained policy, and push both to the Hugging Face Hub.

RUN is the folder of a finished run of llm, llm.ensemble, chem or chem.pretrain. The card is README.md in the folder
of its weights, RUN/policy or RUN/prior: base, method, configuration, data, results with their errors, license, and
how to load the model. A README.md that is there already is kept; remove it to have it written anew.

    python -m launch.publish RUN                       write the card; nothing leaves this machine
    python -m launch.publish RUN --push OWNER/NAME     ... and upload the folder, to a private repository
    python -m launch.publish RUN --push OWNER/NAME --public

--push uses the token of `hf auth login` or HF_TOKEN. The card names no folder of this machine, and a file that does
is not uploaded. The exit status is 1 after an error.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from launch.analysis.model_card import model_card, private_text
from launch.cli.command_table import ArgumentParser
from launch.runs.closing import command, show_next, shown_path
from launch.runs.progress import working
from launch.runs.run_folder import one_line_errors, read_config, read_record, write_text
from launch.runs.streams import run_command

WEIGHTS = {"llm": "policy", "llm.ensemble": "policy", "chem": "policy", "chem.pretrain": "prior"}  # package -> folder
CARD = "README.md"
CHECKED = (CARD, "config.json", "tokenizer_config.json", "generation_config.json")  # for names of this machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status."""
    parser = ArgumentParser("launch.publish", __doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--title", help="title of the card (default: what was trained, and how)")
    parser.add_argument("--license", help="license of the model, such as apache-2.0 (default: that of the base)")
    parser.add_argument("--push", metavar="OWNER/NAME", help="repository on the Hub to upload to; made if missing")
    parser.add_argument("--public", action="store_true", help="let everybody read the repository")
    args = parser.parse_args(arguments)
    with one_line_errors("launch.publish"):
        if args.public and not args.push:
            raise ConfigError("--public: needs --push OWNER/NAME")
        folder = weights_folder(args.run)
        card = write_card(args.run, folder, args.title, args.license, args.push)
        print(f"card: {card}")
        if args.push:
            with working(f"uploading to {args.push}"):
                address = push(folder, args.push, private=not args.public)
            print(f"pushed: {address} ({'public' if args.public else 'private'})")
        show_next(after_publication(args.run, folder, args.push))
        return 0
    return 1


def weights_folder(run: Path) -> Path:
    """The folder of the weights of a finished run.

    Raises:
        ConfigError: the run has not finished, or is of a package that trains no model.
    """
    record = read_record(run)
    if record["state"] != "finished":
        raise ConfigError(
            f"{run}: only a finished run can be published, this one is {record['state']}: "
            f"{command('launch.resume', run)}"
        )
    name = WEIGHTS.get(record["package"])
    if name is None or not (run / name).is_dir():
        raise ConfigError(f"{run}: a run of {record['package']} has no weights; publish one of {', '.join(WEIGHTS)}")
    return run / name


def publishable(run: Path) -> bool:
    """Whether a run has weights that can be published."""
    try:
        return weights_folder(run).is_dir()
    except ConfigError:
        return False


def write_card(run: Path, folder: Path, title: str | None, license_name: str | None, repository: str | None) -> str:
    """Write the card, unless there is one; return its path, and whether it was kept, in words.

    Raises:
        ConfigError: the card would name something of this machine.
    """
    path = folder / CARD
    if path.exists():
        return f"{shown_path(path)} (kept; remove it to have it written anew)"
    text = model_card(run, title, license_name, repository)
    leak = private_text(text, [str(read_record(run).get("cwd", ""))])
    if leak:
        raise ConfigError(f"{path}: not written, since it would contain {leak}; remove that from the configuration")
    write_text(path, text)
    return shown_path(path)


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a folder to a repository of the Hub, which is made if it does not exist; return its address.

    Raises:
        ConfigError: a file names something of this machine, the repository is public and should not be, or the Hub
            refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    for name in CHECKED:
        path = folder / name
        leak = private_text(path.read_text("utf-8")) if path.is_file() else ""
        if leak:
            raise ConfigError(f"--push: {path} contains {leak}; remove it, and push again")
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.repo_info(repository).private:
            raise ConfigError(f"--push: {repository} exists and is public; choose another name, or give --public")
        commit: Any = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload with mara")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"--push: the Hub did not take {repository} ({reason})") from error
    return str(getattr(commit, "repo_url", "") or repository)


def after_publication(run: Path, folder: Path, repository: str | None) -> list[str]:
    """The command that uses the published weights, or the one that can push them."""
    if repository is None:
        return [command("launch.publish", run, "--push", f"OWNER/{folder.absolute().parent.name}")]
    if read_record(run)["package"].startswith("chem"):
        return [command("chem.sample", f"prior={shown_path(folder)}", "count=1000")]
    tokens = read_config(run).get("max_new_tokens")
    limit = [] if tokens is None else [f"max_new_tokens={tokens}"]
    return [command("llm", f"model.name_or_path={repository}", *limit)]


if __name__ == "__main__":
    run_command("launch.publish", main)
