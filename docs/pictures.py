"""Make the pictures of the README: `python docs/pictures.py`. Needs Chromium for the picture of the report page.

Tests do not repeat this: times and the last digits of scores differ from machine to machine.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
IMAGES = Path(__file__).parent / "images"
sys.path.insert(0, str(ROOT))

WIDTH = 110  # columns of the terminal
PAGE = (1200, 1420)  # pixels of the report that are shown
PROGRESS_AT = 0.95  # share of the run after which the progress bar is pictured


def training_picture(run: Path) -> None:
    """Train the demo into `run`, and draw the terminal as it looks shortly before the end."""
    import mtlcli
    from mtlcli.cli import console
    from mtlcli.training.events import Evaluated, Event, Ready, Stepped

    screen = Console(record=True, force_terminal=True, width=WIDTH, highlight=False, markup=False, emoji=False)
    console.out = console.err = screen
    console._is_first_time = lambda topic: False  # the explanation of the columns is left to the documentation
    for function in (console.explain, console.table, console.say):
        function.__defaults__ = tuple(
            screen if isinstance(value, Console) else value for value in function.__defaults__
        )
    screen.print(Text("$ mtl train --config examples/demo.yaml --output runs/demo", style="bold"))
    view: console.TrainingView | None = None

    def show(event: Event) -> None:
        nonlocal view
        match event:
            case Ready(plan=plan):
                console.show_plan(plan)
                # The bar draws itself over and over; a console of its own keeps that out of the picture.
                console.err = Console(force_terminal=True, width=WIDTH, quiet=True)
                view = console.TrainingView(plan.steps, plan.first_step, quiet=False)
                console.err = screen
            case Stepped() if view:
                view.stepped(event)
                if event.step == round(PROGRESS_AT * view.total) and view.bar:
                    screen.print(view.bar.get_renderable())
                    text = screen.export_svg(title="mtl train", clear=False)
                    (IMAGES / "training.svg").write_text(text, encoding="utf-8")
            case Evaluated() if view:
                view.evaluated(event)

    mtlcli.train(ROOT / "examples" / "demo.yaml", output=run, on_event=show)
    if view:
        view.close()


def report_picture(run: Path, scratch: Path) -> None:
    """Write the report of `run` and photograph its upper part with headless Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("docs/images/report.png needs Chromium, which is not installed")
    page = scratch / "report.html"
    command = [sys.executable, "-m", "mtlcli", "report", str(run), "-o", str(page), "--title", "mtl report: runs/demo"]
    subprocess.run(command, cwd=ROOT, check=True)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    flags += [f"--user-data-dir={scratch / 'browser'}", f"--window-size={PAGE[0]},{PAGE[1]}"]
    subprocess.run([browser, *flags, f"--screenshot={IMAGES / 'report.png'}", page.as_uri()], check=True)


def main() -> None:
    """Make both pictures from one run."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "demo"
        training_picture(run)
        report_picture(run, Path(folder))


if __name__ == "__main__":
    main()
