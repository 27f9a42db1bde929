// Asks POST /predict for the ride that a person picks, and shows the prediction or what is wrong.

const form = document.getElementById("ride");
const inputs = {
  PULocationID: document.getElementById("pickup"),
  DOLocationID: document.getElementById("dropoff"),
  trip_distance: document.getElementById("distance"),
  pickup_datetime: document.getElementById("time"),
};
const answer = document.getElementById("answer");
const zones = []; // {id, label}

async function loadZones() {
  const rows = await (await fetch("/static/zones.json")).json();
  for (const [id, borough, name] of rows) {
    // Some names belong to several zones, which only their ids tell apart.
    const isUnique = rows.filter((row) => row[1] === borough && row[2] === name).length === 1;
    zones.push({ id, label: isUnique ? `${name}, ${borough}` : `${name}, ${borough} (${id})` });
  }
  zones.sort((one, other) => one.label.localeCompare(other.label));
  document.getElementById("zones").append(...zones.map((zone) => new Option(zone.label, zone.label)));
}

/** Returns the zones that a text may mean: the zone with exactly this name or id, else all zones that contain the text. */
function findZones(text) {
  const wanted = text.trim().toLowerCase();
  const exact = zones.filter((zone) => zone.label.toLowerCase() === wanted || String(zone.id) === wanted);
  return exact.length || !wanted ? exact : zones.filter((zone) => zone.label.toLowerCase().includes(wanted));
}

/** Returns the id of the zone in an input, or undefined after an error was shown there. */
function readZone(input) {
  const found = findZones(input.value);
  if (found.length === 1) {
    input.value = found[0].label;
    return found[0].id;
  }
  if (!input.value.trim()) showError(input, "Pick a zone.");
  else if (found.length) showError(input, `${found.length} zones match this text: pick one of them.`);
  else showError(input, "No zone has this name: pick one from the list.");
  return undefined;
}

function readDistance(input) {
  if (!Number.isNaN(input.valueAsNumber)) return input.valueAsNumber;
  showError(input, "Type a number of miles.");
  return undefined;
}

/** Returns the time of the pickup; null if there is none, or undefined after an error was shown. */
function readTime(input) {
  if (input.validity.badInput || input.validity.rangeUnderflow || input.validity.rangeOverflow) {
    showError(input, "Give a date and a time from 1970 to 2099, or neither.");
    return undefined;
  }
  // A browser leaves the seconds out if they are zero.
  return input.value ? `${input.value}:00`.slice(0, 19) : null;
}

/** Shows an error at an input, or below the form if it belongs to no input. */
function showError(input, message) {
  document.getElementById(input ? `${input.id}-error` : "form-error").textContent = message;
  input?.setAttribute("aria-invalid", "true");
}

function clear() {
  for (const input of Object.values(inputs)) input.removeAttribute("aria-invalid");
  for (const error of document.querySelectorAll(".error[id]")) error.textContent = "";
  answer.replaceChildren();
}

function showAnswer({ model_version: version, ride_id: _, ...prediction }) {
  // The name of the predicted value depends on the model, and on a setting of the service, PREDICTION_FIELD.
  const [[name, value]] = Object.entries(prediction);
  const number = value.toLocaleString("en", { maximumFractionDigits: 1 });
  const strong = document.createElement("strong");
  strong.textContent = answer.dataset.unit ? `${number} ${answer.dataset.unit}` : `${name}: ${number}`;
  const ride = document.createElement("span");
  const { PULocationID: from, DOLocationID: to, trip_distance: miles } = inputs;
  ride.textContent = `From ${from.value} to ${to.value}, ${miles.value} miles`;
  const small = document.createElement("small");
  small.textContent = `Model version ${version}`;
  answer.replaceChildren(strong, ride, small);
}

/** Returns a problem's detail in plain words, without the type and the path in the JSON. */
function inWords(detail) {
  const words = { "Expected `float`": "expected a number of", "<=": "at most", ">=": "at least" };
  const text = detail.replace(/ - at `\$.*`$/, "");
  return Object.entries(words).reduce((changed, [code, word]) => changed.replace(code, word), text);
}

async function predict(ride) {
  const response = await fetch("/predict", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(ride),
  });
  // A proxy's own error page is not JSON.
  const body = await response.json().catch(() => ({}));
  if (response.ok) return showAnswer(body);
  const detail = body.detail ?? `the service answered with the status ${response.status}`;
  const field = Object.keys(inputs).find((name) => detail.includes(name));
  return showError(inputs[field], `This ride has no prediction: ${inWords(detail)}.`);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (form.getAttribute("aria-busy") === "true") return;
  clear();
  const ride = {
    PULocationID: readZone(inputs.PULocationID),
    DOLocationID: readZone(inputs.DOLocationID),
    trip_distance: readDistance(inputs.trip_distance),
    pickup_datetime: readTime(inputs.pickup_datetime),
  };
  if (!Object.values(ride).includes(undefined)) {
    form.setAttribute("aria-busy", "true");
    try {
      await predict(ride);
    } catch {
      showError(null, "The service does not answer: try again.");
    } finally {
      form.removeAttribute("aria-busy");
    }
  }
  form.querySelector("[aria-invalid]")?.focus();
});

for (const input of [inputs.PULocationID, inputs.DOLocationID]) {
  input.addEventListener("change", () => {
    const found = findZones(input.value);
    if (found.length === 1) input.value = found[0].label;
  });
}

loadZones().catch(() => showError(null, "The list of zones did not load: reload the page."));
