"""scikit-learn on 2 slots, by joblib's backends: a grid search of 24 candidates x 5 folds, and a forest of 200 trees.

The search fits a pipeline (scaler, logistic regression) to 4,000 x 50 values; the forest is fitted to the same. Seconds
for each, when the backend's processes have run a call.
"""

from benchmarks.measuring import Figure, steady, timed, warm_up

SYSTEMS = ("joblib-cw", "joblib-loky", "joblib-dask")
FIGURES = (Figure("search s", higher_is_better=False), Figure("forest s", higher_is_better=False))
LIMIT = 300


def measure(system_class, quick):
    import joblib
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = make_classification(n_samples=1000 if quick else 4000, n_features=50, random_state=0)
    strengths = [10.0 ** (n / 4 - 3) for n in range(6 if quick else 24)]

    def search() -> list[float]:
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=50))
        found = GridSearchCV(pipeline, {"logisticregression__C": strengths}, cv=5).fit(*data)
        return found.cv_results_["mean_test_score"].round(6).tolist()

    def forest() -> list[float]:
        trees = RandomForestClassifier(50 if quick else 200, random_state=0).fit(*data)
        return trees.feature_importances_.round(6).tolist()

    def seconds_of(fit, expected) -> float:
        seconds, found = timed(fit)
        if found != expected:
            raise ValueError("not the same as in one process")
        return seconds

    with joblib.parallel_config(backend="sequential"):
        scores, importances = search(), forest()
    with system_class(2) as system:
        warm_up(system, 2)
        search()  # the libraries are imported by now
        return {
            "n": 5 * len(strengths),
            "search s": steady(lambda: seconds_of(search, scores)),
            "forest s": steady(lambda: seconds_of(forest, importances)),
        }
